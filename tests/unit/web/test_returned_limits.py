"""Dependencies that return a limit, which nothing calls."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.testclient import TestClient

import fleetlimit
from fleetlimit import ConfigError, Fleetlimit, PolicyLimit, RateLimit, rate_limit

LIMIT = RateLimit("1/minute", name="constant")
MISTAKE = "limits nothing, because nothing calls the limit that it returns: write Depends(RateLimit"


def annotated() -> RateLimit:
    return RateLimit("1/minute")


async def annotated_coroutine(request: Request) -> RateLimit:
    await asyncio.sleep(0)
    return RateLimit("1/minute", name=request.method)


def of_a_request(request: Request) -> "RateLimit":
    return RateLimit("1/minute", name=request.method)


def not_annotated():  # type: ignore[no-untyped-def]  # noqa: ANN201 - the case
    return RateLimit("1/minute")


def named_limit() -> object:
    limit = LIMIT
    return limit  # noqa: RET504 - the case


def enclosed() -> Callable[[], object]:
    limit = RateLimit("1/minute")
    return lambda: limit


class Limits:
    """Limits of an app."""

    def exports(self) -> RateLimit:
        """Return one of them."""
        return LIMIT

    def __call__(self) -> PolicyLimit:
        """Return another one."""
        return PolicyLimit("exports")


@pytest.mark.parametrize(
    "dependency",
    [
        annotated,
        annotated_coroutine,
        of_a_request,
        not_annotated,
        named_limit,
        enclosed(),
        lambda: RateLimit("1/minute"),
        lambda: fleetlimit.RateLimit("1/minute"),
        lambda: rate_limit(1, 60),
        lambda: LIMIT,
        partial(RateLimit, "1/minute"),
        partial(annotated),
        Limits().exports,
        Limits(),
    ],
)
@pytest.mark.parametrize("of_router", [False, True])
def test_dependency_that_returns_a_limit_is_an_error(
    dependency: Callable[..., Any], *, of_router: bool
) -> None:
    """`Depends(make_limit)` looks like `Depends(get_db)`, and its limit is not one of the route."""
    app = FastAPI(lifespan=Fleetlimit())
    dependencies = [Depends(dependency)]
    if of_router:
        router = APIRouter(dependencies=dependencies)
        router.get("/items")(lambda: None)
        app.include_router(router)
    else:
        app.get("/items", dependencies=dependencies)(lambda: None)
    with pytest.raises(ConfigError) as caught, TestClient(app):
        pass
    assert MISTAKE in str(caught.value)


async def check_it(
    request: Request, response: Response, limit: Annotated[RateLimit, Depends(annotated)]
) -> None:
    await limit(request, response)


async def make_and_check(request: Request, response: Response) -> None:
    await RateLimit("1/minute")(request, response)


@pytest.mark.parametrize("dependency", [check_it, make_and_check])
def test_dependency_that_calls_a_limit_limits(dependency: Callable[..., Any]) -> None:
    """The limit may come from another dependency."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/items", dependencies=[Depends(dependency)])(lambda: None)
    with TestClient(app) as client:
        assert [client.get("/items").status_code for _ in range(2)] == [200, 429]


seen: list[object] = []


def note_the_limit() -> None:
    seen.append(LIMIT)


def of_unknown_names() -> "Missing":  # type: ignore[name-defined]  # noqa: F821 - the case
    return seen


def names_unknown_names() -> object:
    return of_unknown_names()


@pytest.mark.parametrize("dependency", [of_unknown_names, names_unknown_names])
def test_dependency_without_a_limit_starts(dependency: Callable[..., Any]) -> None:
    """Annotations may need names that are only for editors."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/items", dependencies=[Depends(dependency), Depends(LIMIT)])(lambda: None)
    with TestClient(app):
        pass


def test_dependency_that_returns_nothing_may_name_a_limit() -> None:
    """It may count or log it."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/items", dependencies=[Depends(note_the_limit), Depends(LIMIT)])(lambda: None)
    with TestClient(app) as client:
        assert [client.get("/items").status_code for _ in range(2)] == [200, 429]
    assert LIMIT in seen
