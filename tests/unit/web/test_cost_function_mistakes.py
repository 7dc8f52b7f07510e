"""Cost functions: judged when they are given, bounded in time, and logged with sampling."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from fleetlimit import (
    ConcurrencyLimit,
    ConfigError,
    Fleetlimit,
    Policy,
    PolicyLimit,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
    Settings,
)
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW
from support.web import LimiterBench, parse_limits


class Size:
    """Cost function that is an object."""

    def __call__(self, _connection: HTTPConnection) -> int:
        """Return a cost."""
        return 2


class AsyncSize:
    """The same, with an async method."""

    async def __call__(self, _connection: HTTPConnection) -> int:
        """Return a cost."""
        return 2


class Wrapped:
    """Object that gives a method as a cost function."""

    async def cost(self, _connection: HTTPConnection, _factor: int = 1) -> int:
        """Return a cost."""
        return 2


def two(_factor: int, _connection: HTTPConnection) -> int:
    """Return a cost."""
    return 2


async def async_two(_connection: "Request") -> "int":
    """Return a cost."""
    return 2


def untyped(*_arguments):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN201 - the case
    """Return a cost."""
    return 2


def no_argument() -> int:
    """Return a cost."""
    return 2


def like_a_dependency(_request: Request, _size: Annotated[int, Depends(no_argument)]) -> int:
    """Return a cost."""
    return 2


def named_only(*, _request: Request) -> int:
    """Return a cost."""
    return 2


def as_text(_connection: HTTPConnection) -> str:
    """Return text."""
    return "2"


async def as_fraction(_connection: HTTPConnection) -> float | None:
    """Return a fraction."""
    return 2.0


def nothing(_connection: HTTPConnection) -> None:
    """Return nothing."""


def generator(_connection: HTTPConnection) -> Iterator[int]:
    """Yield a cost."""
    yield 2


async def async_generator(_connection: HTTPConnection) -> AsyncIterator[int]:
    """Yield a cost."""
    yield 2


@pytest.mark.parametrize(
    "cost",
    [
        Size(),
        AsyncSize(),
        Wrapped().cost,
        functools.partial(two, 1),
        functools.partial(async_two),
        async_two,
        untyped,
        lambda _: 2,
        max,
    ],
)
def test_functions_of_one_argument_are_costs(cost: Any) -> None:
    """Any function, method or object that can be called with the connection is accepted."""
    for make in (PolicyLimit, RateLimit):
        assert make("9/minute" if make is RateLimit else "a", cost=cost).cost is cost
    assert ConcurrencyLimit(9, cost=cost).cost is cost


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (no_argument, r"cannot be called with one argument: write `def cost\(connection\)`"),
        (like_a_dependency, "cannot be called with one argument"),
        (named_only, "cannot be called with one argument"),
        (as_text, "returns <class 'str'>: return int"),
        (as_fraction, r"returns float \| None: return int"),
        (nothing, "returns None: return int"),
        (generator, "is a generator: write `return` in place of `yield`"),
        (async_generator, "is a generator"),
        (Size, "is a class: write an object of it, or a function"),
        (RateLimit("1/minute"), "cannot be called with one argument"),
        (functools.partial(two), "cannot be called with one argument"),
    ],
)
def test_mistakes_are_errors_when_the_cost_is_given(cost: Any, message: str) -> None:
    """Each request would fail, in every kind of limit."""
    for make in (
        lambda: RateLimit("9/minute", cost=cost),
        lambda: ConcurrencyLimit(9, cost=cost),
        lambda: PolicyLimit("a", cost=cost),
    ):
        with pytest.raises(ConfigError, match=f"the cost function .*{message}"):
            make()


both_doors = pytest.mark.parametrize("middleware", [True, False])


def _client(cost: Callable[..., Any], *, middleware: bool) -> TestClient:
    app = FastAPI()
    app.get("/rows", dependencies=[Depends(RateLimit("9/minute", cost=cost))])(lambda: None)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    bench = LimiterBench()
    bench.http_limiter.function_timeout_s = 0.001
    return TestClient(bench.install(app), raise_server_exceptions=False)


def failures(log: pytest.LogCaptureFixture) -> list[str]:
    return [each for each in log.messages if each.startswith("cost.failed")]


@both_doors
def test_async_cost_is_bounded_in_time(log: pytest.LogCaptureFixture, *, middleware: bool) -> None:
    """A function that hangs fails the request, spends nothing, and the log is sampled."""
    hanging = True

    async def cost(_connection: HTTPConnection) -> int:
        if hanging:
            await asyncio.Event().wait()
        return 2

    client = _client(cost, middleware=middleware)
    for _ in range(LINES_PER_WINDOW + 3):
        assert client.get("/rows").status_code == 500
    assert failures(log) == ["cost.failed"] * LINES_PER_WINDOW
    assert "the cost function did not return within 0.001 s" in log.text
    hanging = False
    assert parse_limits(client.get("/rows"))["9/60s"]["r"] == 7


@both_doors
@pytest.mark.parametrize(
    ("returned", "status"), [("2", 413), (-1, 413), (ValueError("broken"), 500)]
)
def test_failures_of_a_cost_are_logged_with_sampling(
    returned: Any, status: int, log: pytest.LogCaptureFixture, *, middleware: bool
) -> None:
    """A wrong result is the app's mistake, although the client gets a 413."""

    def cost(_connection: HTTPConnection) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    client = _client(cost, middleware=middleware)
    for _ in range(LINES_PER_WINDOW + 3):
        assert client.get("/rows").status_code == status
    assert failures(log) == ["cost.failed"] * LINES_PER_WINDOW


class BrokenQuery(Exception):
    """An exception that the app has a handler for."""


async def _teapot(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"short": "stout"}, 418)


@both_doors
@pytest.mark.parametrize(("error", "status"), [(HTTPException(400), 400), (BrokenQuery(), 418)])
def test_errors_with_a_handler_are_no_failure(
    error: Exception, status: int, log: pytest.LogCaptureFixture, *, middleware: bool
) -> None:
    """The app answers a client's mistake, which is not logged as one of the app."""

    def cost(_connection: HTTPConnection) -> int:
        raise error

    client = _client(cost, middleware=middleware)
    app: Any = client.app
    app.add_exception_handler(BrokenQuery, _teapot)
    assert client.get("/rows").status_code == status
    assert not failures(log)


def test_setting_bounds_costs_and_their_failures_add_up(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`FLEETLIMIT_FUNCTION_TIMEOUT` applies; the end of the app logs the number suppressed."""

    async def cost(_connection: HTTPConnection) -> int:
        await asyncio.Event().wait()
        return 1

    monkeypatch.setenv("FLEETLIMIT_FUNCTION_TIMEOUT", "0.002")
    app = FastAPI(lifespan=Fleetlimit(policies=PolicySet([Policy("a", "9/day")])))
    app.get("/rows", dependencies=[Depends(PolicyLimit("a", cost=cost))])(lambda: None)
    with TestClient(app, raise_server_exceptions=False) as client:
        for _ in range(LINES_PER_WINDOW + 3):
            assert client.get("/rows").status_code == 500
    assert "did not return within 0.002 s" in log.text
    assert failures(log)[-1] == "cost.failed.suppressed error=TimeoutError suppressed=3"
    assert Settings().function_timeout == 0.002
