"""Several limits of one route: one decision, and each limit counts once."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from support.exports import count_allowed, limited_app
from support.limiter import rate_policy
from support.web import LimiterBench, caller, parse_limits


def test_limits_of_app_router_and_route_are_one_decision() -> None:
    """A rejection by one of them spends nothing of the others."""
    bench = LimiterBench(rate_policy("app", "10/hour"), rate_policy("router", "9/hour"))
    app = bench.install(FastAPI(dependencies=[Depends(PolicyLimit("app"))]))
    router = APIRouter(dependencies=[Depends(PolicyLimit("router"))])

    @router.post("/exports", dependencies=[Depends(RateLimit("1/minute"))])
    async def create_export() -> None: ...

    @router.get("/imports")
    async def list_imports() -> None: ...

    app.include_router(router, prefix="/v1")
    client = TestClient(app)

    first = parse_limits(client.post("/v1/exports"))
    assert {name: each["r"] for name, each in first.items()} == {
        "app": 9,
        "router": 8,
        "1/60s": 0,
    }
    for _ in range(3):
        rejected = client.post("/v1/exports")
        assert rejected.status_code == 429
        assert rejected.json()["violated-policies"] == ["1/60s"]
    limits = parse_limits(client.get("/v1/imports"))
    assert {name: each["r"] for name, each in limits.items()} == {"app": 8, "router": 7}
    assert bench.store.acquire_calls == 3, "the denial cache rejects without the store"


def test_equal_rates_with_different_keys_are_two_limits() -> None:
    """Both apply on one route when their keys differ."""
    client = limited_app(
        LimiterBench(), RateLimit("2/minute"), RateLimit("2/minute", key="header:x-tenant")
    )
    tenant = {"x-tenant": "a"}
    assert count_allowed(client, caller("ann") | tenant) == 2
    assert count_allowed(client, caller("bob") | tenant) == 0, "the tenant's limit"
    assert count_allowed(client, caller("ann") | {"x-tenant": "b"}) == 0, "the caller's limit"


def test_equal_rates_with_different_algorithms_are_two_limits() -> None:
    """Both apply on one route when their algorithms differ."""
    client = limited_app(
        LimiterBench(),
        RateLimit("2/minute", burst=5),
        RateLimit("2/minute", algorithm="fixed_window"),
    )
    assert count_allowed(client) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"burst": 9}),
        ({}, {"mode": "shadow"}),
        ({}, {"mode": "off"}),
        ({}, {"on_store_error": "deny"}),
        ({}, {"prefetch": 0.1}),
        ({"prefetch": 0.1}, {"prefetch": 0.2}),
        ({"rate": "5 per 1234567 s"}, {"rate": "5 per 1234568 s"}),
        ({"key": ["header:a", "global"]}, {"key": "header:a-global"}),
        ({"key": "header:x~y"}, {"key": "header:x-y"}),
        ({"key": "header:x-shadow"}, {"key": "header:x", "mode": "shadow"}),
        ({"key": f"header:{'a' * 63}b"}, {"key": f"header:{'a' * 63}c"}),
    ],
)
def test_limits_that_differ_have_names_that_differ(first: Any, second: Any) -> None:
    """Any argument but the cost makes another limit, which replaces none of the same rate."""
    limiter = LimiterBench().http_limiter
    limits = [RateLimit(**{"rate": "20/minute"} | each) for each in (first, second)]
    assert len({each.resolve_policy(limiter).name for each in limits}) == 2


def test_shadow_limit_of_a_route_leaves_the_limit_of_the_app_enforced() -> None:
    """A limit of the same rate in shadow mode does not replace the enforced one."""
    app = LimiterBench().install(FastAPI(dependencies=[Depends(RateLimit("1/minute"))]))

    @app.get("/items", dependencies=[Depends(RateLimit("1/minute", mode="shadow"))])
    async def items() -> None: ...

    client = TestClient(app)
    assert [client.get("/items").status_code for _ in range(2)] == [200, 429]


def test_two_different_limits_of_one_name_are_an_error() -> None:
    """A route that has both, or a policy of the file and a limit of its name, is not served."""
    two = limited_app(
        LimiterBench(), RateLimit("2/minute", name="io"), RateLimit("3/minute", name="io")
    )
    policy = limited_app(
        LimiterBench(rate_policy("io", "9/minute")), PolicyLimit("io"), RateLimit("1/s", name="io")
    )
    for client in (two, policy):
        with pytest.raises(ConfigError, match="two different limits are named 'io': give one"):
            client.post("/exports")


def test_limit_of_app_and_route_counts_once() -> None:
    """The same limit on the app and on the route is one limit, at the route's cost."""
    app = LimiterBench().install(FastAPI(dependencies=[Depends(RateLimit("10/minute"))]))

    @app.get("/items", dependencies=[Depends(RateLimit("10/minute", cost=4))])
    async def items() -> None: ...

    assert parse_limits(TestClient(app).get("/items"))["10/60s"]["r"] == 6


def test_uncached_dependency_counts_once() -> None:
    """A limit that FastAPI calls twice for one request counts once."""
    limit = RateLimit("10/minute")
    app = LimiterBench().install(FastAPI(dependencies=[Depends(limit, use_cache=False)]))

    @app.get("/items", dependencies=[Depends(limit, use_cache=False)])
    async def items() -> None: ...

    assert parse_limits(TestClient(app).get("/items"))["10/60s"]["r"] == 9


def test_limit_of_a_sub_dependency_applies() -> None:
    """A limit that a dependency depends on applies to the route."""
    limit = RateLimit("1/minute")

    def session(_limit: Annotated[Reservation, Depends(limit)]) -> None: ...

    app = LimiterBench().install(FastAPI())

    @app.get("/items", dependencies=[Depends(session)])
    async def items() -> None: ...

    client = TestClient(app)
    assert [client.get("/items").status_code for _ in range(2)] == [200, 429]


def test_limit_applies_to_a_route_added_later() -> None:
    """A limit applies to a route that was added after the route table was built."""
    app = LimiterBench().install(FastAPI())
    limit = RateLimit("1/minute")

    @app.get("/early", dependencies=[Depends(limit)])
    async def early() -> None: ...

    client = TestClient(app)
    assert client.get("/early").status_code == 200

    @app.get("/late", dependencies=[Depends(limit)])
    async def late() -> None: ...

    assert [client.get("/late").status_code for _ in range(2)] == [200, 429]
