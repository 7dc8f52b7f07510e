"""Several limits of one route: one decision, and each limit counts once."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI
from starlette.testclient import TestClient

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
