"""`unlimited`: all limits of the process are off for a test."""

from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit import ConcurrencyLimit, Policy, PolicySet, RateLimit, RateLimitMiddleware
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
