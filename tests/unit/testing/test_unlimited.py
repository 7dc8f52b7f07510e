"""`unlimited`: all limits of the process are off for a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit import (
    ConcurrencyLimit,
    Fleetlimit,
    Policy,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
)
from fleetlimit.limiter.limit_switch import LIMIT_SWITCH
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.testing import FleetlimitFactory, unlimited


def test_unlimited_admits_all_requests(
    make_fleetlimit: FleetlimitFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Limits of routes and policies are off within the context, and on after it."""
    fleetlimit = make_fleetlimit(PolicySet([Policy("default", "2/day", key="global")]))
    app = FastAPI(lifespan=fleetlimit)
    app.add_middleware(RateLimitMiddleware)

    @app.get("/rows", dependencies=[Depends(ConcurrencyLimit(1, cost=lambda _: 2))])
    async def rows(limit: Annotated[Reservation, Depends(RateLimit("1/day"))]) -> None:
        await limit.commit(3)

    with TestClient(app) as client:
        with unlimited():
            with unlimited():
                pass
            responses = [client.get("/rows") for _ in range(3)]
        assert {each.status_code for each in responses} == {200}
        assert "RateLimit" not in responses[0].headers
        assert client.get("/rows").status_code == 413
    assert "limits.off" in caplog.text


async def test_unlimited_admits_all_checks(make_fleetlimit: FleetlimitFactory) -> None:
    """Checks in code spend nothing within the context."""
    async with make_fleetlimit(PolicySet([Policy("exports", "1/day")])) as fleetlimit:
        limiter = fleetlimit.limiter
        with unlimited():
            for _ in range(3):
                assert (await limiter.check("exports")).allowed
            assert (await limiter.peek("exports", cost=9)).allowed
        assert (await limiter.check("exports")).allowed
        assert not (await limiter.check("exports")).allowed


def test_unlimited_contexts_may_overlap(caplog: pytest.LogCaptureFixture) -> None:
    """The limits are on again after the last context, in whatever order they end."""
    first, second = unlimited(), unlimited()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert LIMIT_SWITCH.is_off
    assert "limits.on" not in caplog.text
    second.__exit__(None, None, None)
    assert not LIMIT_SWITCH.is_off
    assert "limits.on" in caplog.text


def test_unlimited_restores_the_limits_after_an_error() -> None:
    """A failing test does not leave the limits off."""
    with contextlib.suppress(RuntimeError), unlimited():
        raise RuntimeError
    assert not LIMIT_SWITCH.is_off


async def test_unlimited_decorates_sync_and_async_functions() -> None:
    """The limits are off while the function runs, an async one included."""

    @unlimited()
    def read() -> bool:
        return LIMIT_SWITCH.is_off

    @unlimited()
    async def read_later() -> bool:
        await asyncio.sleep(0)
        return LIMIT_SWITCH.is_off

    assert (read(), await read_later(), LIMIT_SWITCH.is_off) == (True, True, False)


def generate() -> Iterator[None]:
    """Yield once."""
    yield


async def generate_later() -> AsyncIterator[None]:
    """Yield once."""
    yield


@pytest.mark.parametrize("decorated", [generate, generate_later, object])
def test_unlimited_decorates_nothing_that_runs_later(decorated: Any) -> None:
    """Decorating a generator or a class would have no effect, so it is an error."""
    with pytest.raises(TypeError, match=r"write `with unlimited\(\):`"):
        unlimited()(decorated)


def test_unlimited_without_parentheses_is_an_error() -> None:
    """`@unlimited` says what to write."""
    with pytest.raises(TypeError, match=r"write @unlimited\(\)"):
        unlimited(generate)


def test_unlimited_fixture(fleetlimit_unlimited: None, fleetlimit: Fleetlimit) -> None:
    """The fixture turns off the limits during the test."""
    assert fleetlimit_unlimited is None
    app = FastAPI(lifespan=fleetlimit)
    app.get("/", dependencies=[Depends(RateLimit("1/day"))])(lambda: None)
    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200] * 3
