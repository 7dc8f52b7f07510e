"""`Depends(RateLimit(...))` and `Depends(rate_limit(...))` on FastAPI routes."""

from collections.abc import Callable
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency import RateLimit, rate_limit
from support.exports import count_allowed, limited_app
from support.web import LimiterBench, caller, parse_limits, rate_policy


def test_the_seeds_own_test() -> None:
    """The code and the test of the seed work as they stand: 5 pass, then 429 with Retry-After."""
    router = APIRouter()

    @router.post("/exports", dependencies=[Depends(rate_limit(limit=5, window=60))])
    async def create_export() -> dict[str, str]:
        return {"status": "queued"}

    app = LimiterBench().install(FastAPI())
    app.include_router(router)
    client = TestClient(app)

    for _ in range(5):
        assert client.post("/exports").status_code == 200
    blocked = client.post("/exports")
    assert blocked.status_code == 429
    assert "Retry-After" in blocked.headers


def test_burst() -> None:
    """A burst is what can be spent at once, above the rate."""
    client = limited_app(LimiterBench(), RateLimit("5/minute", burst=10))
    assert parse_limits(client.post("/exports")) == {"5/60s": {"q": 10, "w": 120, "r": 9, "t": 12}}
    assert count_allowed(client) == 9


def test_lease() -> None:
    """With a lease the bucket holds less by a slice, and clients are told so."""
    client = limited_app(LimiterBench(), RateLimit("10/minute", key="global", prefetch=0.2))
    assert parse_limits(client.post("/exports")) == {
        "10/60s-global": {"q": 8, "w": 48, "r": 7, "t": 6}
    }
    assert count_allowed(client) == 7


def test_fraction_of_a_second() -> None:
    """A window may be a fraction of a second, in whole milliseconds."""
    client = limited_app(LimiterBench(), rate_limit(limit=1, window=0.25))
    assert client.post("/exports").headers["RateLimit-Policy"] == '"1/0.25s";q=1;w=1'


def test_named_policy_at_a_cost() -> None:
    """A route can name a policy of the file and spend more than one of it."""
    client = limited_app(
        LimiterBench(rate_policy("exports", "7/minute")), RateLimit(policy="exports", cost=3)
    )
    assert parse_limits(client.post("/exports")) == {"exports": {"q": 7, "w": 60, "r": 4, "t": 9}}
    assert count_allowed(client) == 1


def test_quota_object() -> None:
    """A quota that was built elsewhere serves as the rate."""
    client = limited_app(
        LimiterBench(), RateLimit(rate_quota("2/hour", algorithm=Algorithm.FIXED_WINDOW))
    )
    assert count_allowed(client) == 2


def test_named_policy_follows_a_reload() -> None:
    """A named policy is the one in force, not the one at import."""
    bench = LimiterBench(rate_policy("exports", "1/minute"))
    client = limited_app(bench, RateLimit(policy="exports"))
    assert count_allowed(client) == 1
    bench.limiter.active_policies.replace(
        LimiterBench(rate_policy("exports", "5/minute")).limiter.active_policies.current
    )
    assert count_allowed(client, caller("ann")) == 5


def test_named_policy_in_shadow_or_off() -> None:
    """A policy that only counts, or is off, refuses nobody."""
    for mode in ("shadow", "off"):
        client = limited_app(LimiterBench(), RateLimit("1/minute", mode=mode))
        assert {client.post("/exports").status_code for _ in range(3)} == {200}


def test_no_policy_of_that_name() -> None:
    """A policy that does not exist is an error that lists those that do, not a free pass."""
    client = limited_app(
        LimiterBench(rate_policy("default", "5/minute")), RateLimit(policy="exprots")
    )
    with pytest.raises(ConfigError, match="no policy 'exprots' in code: default"):
        client.post("/exports")


def test_cost_function() -> None:
    """A cost can be a function of the request, plain or async."""

    def rows(connection: HTTPConnection) -> int:
        return int(connection.query_params["rows"])

    async def rows_later(connection: HTTPConnection) -> int:
        return rows(connection)

    for cost in (rows, rows_later):
        client = limited_app(LimiterBench(), RateLimit("10/minute", cost=cost))
        assert parse_limits(client.post("/exports?rows=7"))["10/60s"]["r"] == 3
        assert client.post("/exports?rows=4").status_code == 429
        assert parse_limits(client.post("/exports?rows=3"))["10/60s"]["r"] == 0
        assert client.post("/exports?rows=0").status_code == 200


def test_reservation_commit_and_refund() -> None:
    """The dependency's value gives back what the request did not cost after all."""
    app = LimiterBench().install(FastAPI())

    @app.get("/rows/{count}")
    async def rows(
        count: int, limit: Annotated[Reservation, Depends(RateLimit("100/hour", cost=10))]
    ) -> bool:
        if count:
            await limit.commit(count)
        else:
            await limit.refund()
        return limit.decision.allowed

    client = TestClient(app)
    for count, left in ((3, 90), (0, 87), (25, 87), (1, 62)):
        response = client.get(f"/rows/{count}")
        assert response.json() is True
        assert parse_limits(response)["100/3600s"]["r"] == left


def test_reservation_of_one_policy_among_several() -> None:
    """A commit corrects the policy whose dependency gave it, and no other."""
    bench = LimiterBench(rate_policy("calls", "10/hour"), rate_policy("rows", "100/hour"))
    app = bench.install(FastAPI(dependencies=[Depends(RateLimit(policy="calls"))]))

    @app.get("/rows")
    async def rows(
        limit: Annotated[Reservation, Depends(RateLimit(policy="rows", cost=10))],
    ) -> None:
        await limit.commit(1)

    client = TestClient(app)
    client.get("/rows")
    found = parse_limits(client.get("/rows"))
    assert (found["calls"]["r"], found["rows"]["r"]) == (8, 89)


def test_routes_have_buckets_of_their_own() -> None:
    """One limit object on two routes is a limit on each of them."""
    client = limited_app(LimiterBench(), RateLimit("2/minute"))
    assert count_allowed(client) == 2
    assert client.get("/imports").status_code == 200


def test_name_is_shared_by_routes() -> None:
    """Routes whose limits have one name share its buckets."""
    client = limited_app(LimiterBench(), RateLimit("2/minute", name="io"))
    assert count_allowed(client) == 2
    assert client.get("/imports").status_code == 429


def test_two_identities_have_two_buckets() -> None:
    """Each caller has a bucket of its own, and so has the address (fastapi-limiter #80)."""
    client = limited_app(LimiterBench(), RateLimit("2/minute"))
    assert count_allowed(client, caller("ann")) == 2
    assert count_allowed(client, caller("bob")) == 2
    assert count_allowed(client) == 2
    assert count_allowed(client, caller("ann")) == 0


def test_unverified_callers_share_their_address() -> None:
    """A credential that does not verify moves nobody to a fresh bucket."""
    client = limited_app(LimiterBench(), RateLimit("2/minute"))
    assert count_allowed(client) == 2
    assert count_allowed(client, caller("nobody")) == 0


def test_key_parts() -> None:
    """A key can be something else than the caller, or several things at once."""
    tenants = limited_app(LimiterBench(), RateLimit("2/minute", key="header:X-Tenant"))
    assert count_allowed(tenants, {"x-tenant": "a"} | caller("ann")) == 2
    assert count_allowed(tenants, {"x-tenant": "a"} | caller("bob")) == 0
    assert count_allowed(tenants, {"x-tenant": "b"} | caller("bob")) == 2

    both = limited_app(LimiterBench(), RateLimit("2/minute", key=["principal", "header:x-tenant"]))
    assert count_allowed(both, {"x-tenant": "a"} | caller("ann")) == 2
    assert count_allowed(both, {"x-tenant": "a"} | caller("bob")) == 2
    assert count_allowed(both, {"x-tenant": "a"} | caller("ann")) == 0

    everybody = limited_app(LimiterBench(), RateLimit("2/minute", key="global"))
    assert count_allowed(everybody, caller("ann")) == 2
    assert count_allowed(everybody, caller("bob")) == 0


@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (RateLimit, r'write either RateLimit\("5/minute"\)'),
        (lambda: RateLimit("5/minute", policy="x"), r'or RateLimit\(policy="exports"\)'),
        (lambda: RateLimit("5 a minute"), "write 100/second, 100/minute"),
        (lambda: RateLimit("0/minute"), "needs at least 1"),
        (lambda: RateLimit("5/minute", algorithm="gcra"), "write one of token_bucket, fixed_w"),
        (lambda: RateLimit("5/minute", algorithm="concurrency"), "concurrency has no rate"),
        (lambda: RateLimit("5/minute", burst=0), "a burst must be from 1"),
        (lambda: RateLimit("5/minute", burst=9, algorithm="fixed_window"), "leave it out"),
        (lambda: RateLimit(rate_quota("5/minute"), burst=9), "burst .* into the Quota"),
        (lambda: RateLimit("5/minute", cost=6), "write a cost from 0 to 5"),
        (lambda: RateLimit("5/minute", cost=-1), "write a cost from 0 to 5"),
        (lambda: RateLimit("10/minute", cost=9, prefetch=0.2), "write a cost from 0 to 8"),
        (lambda: RateLimit("10/minute", prefetch=0.6), r"at most 0\.5"),
        (
            lambda: RateLimit(policy="exports", prefetch=0.1),
            "lease of a named policy in the policy f",
        ),
        (lambda: RateLimit("5/minute", key="header"), "write principal, client_address"),
        (lambda: RateLimit("5/minute", key=[]), "empty key: write principal"),
        (lambda: RateLimit("5/minute", name="a b"), "not a policy name: write"),
        (lambda: RateLimit("5/minute", mode="enforced"), "write one of enforce, shadow, off"),
        (lambda: RateLimit("5/minute", on_store_error="raise"), "write one of allow, deny, local"),
        (lambda: RateLimit(policy="exports", burst=5), "write burst, .* in the policy file"),
        (lambda: RateLimit(policy="exports", key="global"), "write burst, .* in the policy file"),
        (lambda: rate_limit(limit=0, window=60), "a limit must be from 1"),
        (lambda: rate_limit(limit=5, window=0), "a period must be whole milliseconds"),
    ],
)
def test_arguments_that_cannot_work(make: Callable[[], RateLimit], fix: str) -> None:
    """Arguments that cannot work are refused at import, with what to write instead."""
    with pytest.raises(ConfigError, match=fix):
        make()
