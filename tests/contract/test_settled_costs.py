"""Costs that are corrected by policy and by the response, with every store."""

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from fleetlimit.core.limit import Limit
from fleetlimit.core.policy import Match, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.usage import Usage
from fleetlimit.identity import ClientAddressResolver, RequestIdentifier
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import Store
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.web import wiring
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.middleware import RateLimitMiddleware
from support.clock import ManualClock

RATE_ALGORITHMS = ("token_bucket", "fixed_window", "sliding_window", "sliding_log")
by_algorithm = pytest.mark.parametrize("algorithm", RATE_ALGORITHMS)


def limiter_of(store: Store, clock: ManualClock, *policies: Policy) -> Limiter:
    """Return a limiter over the store."""
    limiter = Limiter(store, local=MemoryStore(clock.monotonic_us), clock=clock)
    limiter.active_policies.replace(PolicySet(policies))
    return limiter


async def left(limiter: Limiter, policy: str) -> int:
    """Return the remaining units."""
    decision = await limiter.peek(policy, principal="ann", cost=0)
    status = decision.results[0].limits[0].status
    assert status is not None
    return status.remaining


@by_algorithm
async def test_several_costs_are_corrected_by_policy(
    store: Store, clock: ManualClock, algorithm: str
) -> None:
    """Requests and tokens are spent in one check, and the tokens are corrected alone."""
    limiter = limiter_of(
        store,
        clock,
        Policy("requests", "5/minute"),
        Policy("tokens", [Limit.rate("1000/minute", algorithm=algorithm)]),  # type: ignore[arg-type]  # one of these
    )
    reservation = await limiter.reserve(cost={"requests": 1, "tokens": 500}, principal="ann")
    await reservation.commit({"tokens": 320})
    assert (await left(limiter, "requests"), await left(limiter, "tokens")) == (4, 680)
    denied = await limiter.check(cost={"requests": 1, "tokens": 681}, principal="ann")
    assert denied.denied_by == ("tokens",)
    assert await left(limiter, "requests") == 4


@by_algorithm
async def test_responses_correct_costs(store: Store, clock: ManualClock, algorithm: str) -> None:
    """Successes give the cost back, failures keep it, and an answer states its tokens."""
    options = {"key": "global", "match": Match()}
    limit = Limit.rate("9/minute", algorithm=algorithm)  # type: ignore[arg-type]  # one of these
    tokens = Limit.rate("1000/minute", algorithm=algorithm)  # type: ignore[arg-type]  # one of these
    limiter = limiter_of(
        store,
        clock,
        Policy("login", [limit], count="failure", **options),  # type: ignore[arg-type]  # of both
        Policy("tokens", [tokens], cost=Usage("openai", estimate=300), **options),  # type: ignore[arg-type]  # of both
    )
    app = FastAPI()

    @app.get("/{status}")
    async def endpoint(status: int) -> JSONResponse:
        return JSONResponse({"usage": {"total_tokens": 70}}, status)

    app.add_middleware(RateLimitMiddleware)
    wiring.install(app, HTTPLimiter(limiter, RequestIdentifier(ClientAddressResolver())))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        statuses = [(await client.get(f"/{status}")).status_code for status in (403, 200, 200)]
    assert statuses == [403, 200, 200]
    assert await left(limiter, "login") == 8
    assert await left(limiter, "tokens") == 860
