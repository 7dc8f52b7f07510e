"""Middleware and dependencies together: one decision, and each policy counts once."""

from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fleetlimit.core.policy import Match
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.limiter import rate_policy
from support.web import LimiterBench, caller, parse_limits


async def endpoint() -> None: ...


def _remaining(client: TestClient, path: str) -> dict[str, int]:
    return {name: each["r"] for name, each in parse_limits(client.get(path)).items()}


def test_policy_of_match_and_dependency_counts_once() -> None:
    """A policy that matches a route and is named by it counts once, at the dependency's cost."""
    match = Match(routes=("/items",))
    bench = LimiterBench(
        rate_policy("items", "9/minute", match=match), rate_policy("all", "9/minute", match=Match())
    )
    app = bench.install(FastAPI(dependencies=[Depends(RateLimit("9/minute"))]))
    app.get("/items", dependencies=[Depends(PolicyLimit("items", cost=3))])(endpoint)
    app.add_middleware(RateLimitMiddleware)
    assert _remaining(TestClient(app), "/items") == {"items": 6, "all": 8, "9/60s": 8}
    assert bench.store.acquire_calls == 1


def test_middleware_may_wrap_the_whole_app() -> None:
    """Around the whole app the middleware does the same as within it."""
    bench = LimiterBench(rate_policy("items", "1/minute", match=Match(routes=("/items/{item}",))))
    app = bench.install(FastAPI())
    app.get("/items/{item}")(endpoint)
    client = TestClient(RateLimitMiddleware(app))
    assert [client.get(f"/items/{item}").status_code for item in range(2)] == [200, 429]


def test_rejection_by_the_route_spends_nothing_of_the_default() -> None:
    """A rejection by the route's own limit spends nothing of the default policy."""
    bench = LimiterBench(rate_policy("default", "9/minute"))
    app = bench.install(FastAPI())
    app.get("/tight", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    app.get("/free")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert [client.get("/tight").status_code for _ in range(4)] == [200, 429, 429, 429]
    assert _remaining(client, "/free") == {"default": 7}


def test_rejection_by_the_default_spends_nothing_of_the_route() -> None:
    """A rejection by the default policy spends nothing of the route's own limit."""
    bench = LimiterBench(rate_policy("default", "2/minute"))
    app = bench.install(FastAPI())
    app.get("/items", dependencies=[Depends(RateLimit("9/minute", key="global"))])(endpoint)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    for _ in range(4):
        last = client.get("/items", headers=caller("ann"))
    assert last.json()["violated-policies"] == ["default"]
    found = parse_limits(client.get("/items", headers=caller("bob")))
    assert found["9/60s-global"]["r"] == 6


def test_middleware_gives_each_caller_a_bucket() -> None:
    """The middleware separates callers as the dependency does (fastapi-limiter #80)."""
    bench = LimiterBench(rate_policy("default", "1/minute"))
    app = bench.install(FastAPI())
    app.get("/items")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    for headers in (caller("ann"), caller("bob"), {}):
        found = [client.get("/items", headers=headers).status_code for _ in range(2)]
        assert found == [200, 429]


def test_tier_selects_the_policy() -> None:
    """The caller's tier selects the policy."""
    default = rate_policy("default", "1/minute")
    pro = rate_policy("pro", "3/minute", match=Match(tiers=frozenset({"pro"})))
    bench = LimiterBench(default, pro)
    app = bench.install(FastAPI())
    app.get("/items")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert set(parse_limits(client.get("/items", headers=caller("ann/pro")))) == {"pro"}
    assert set(parse_limits(client.get("/items", headers=caller("bob/free")))) == {"default"}


def test_middleware_of_app_and_mounted_app_counts_once() -> None:
    """The middleware around an app and around an app mounted in it check a request once."""
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items", dependencies=[Depends(RateLimit("9/minute"))])(endpoint)
    inner.add_middleware(RateLimitMiddleware)
    outer.add_middleware(RateLimitMiddleware)
    outer.add_middleware(RateLimitMiddleware)
    bench = LimiterBench(rate_policy("default", "9/minute"))
    outer.mount("/sub", bench.install(inner))
    client = TestClient(bench.install(outer))
    assert _remaining(client, "/sub/items") == {"default": 8, "9/60s": 8}
    assert bench.store.acquire_calls == 1


def test_two_limiters_both_decide() -> None:
    """An app with two limiters is limited by both."""
    near, far = (
        LimiterBench(rate_policy("default", "9/minute")),
        LimiterBench(rate_policy("default", "1/minute")),
    )
    app = FastAPI()
    app.get("/items")(endpoint)
    app.add_middleware(RateLimitMiddleware, http_limiter=near.http_limiter)
    app.add_middleware(RateLimitMiddleware, http_limiter=far.http_limiter)
    client = TestClient(app)
    assert [client.get("/items").status_code for _ in range(2)] == [200, 429]
    assert near.store.acquire_calls == 1


def test_limit_of_a_route_added_later_checks_by_itself() -> None:
    """A limit on a route added later is checked by the dependency, with headers on the response."""
    bench = LimiterBench(rate_policy("default", "9/minute"))
    app = bench.install(FastAPI())
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert client.get("/items").status_code == 404
    app.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    assert _remaining(client, "/items") == {"default": 7, "1/60s": 0}
    rejected = client.get("/items", headers={"origin": "https://app.example"})
    assert rejected.status_code == 429
    assert rejected.json()["violated-policies"] == ["1/60s"]
    assert parse_limits(rejected)["1/60s"]["r"] == 0


def test_cost_function_runs_once() -> None:
    """A cost function runs once when middleware and dependency share the limit."""
    called: list[str] = []

    def cost(connection: HTTPConnection) -> int:
        called.append(connection.url.path)
        return 2

    router = APIRouter(dependencies=[Depends(RateLimit("9/minute", cost=cost))])
    router.get("/items")(endpoint)
    app = LimiterBench().install(FastAPI())
    app.include_router(router)
    app.add_middleware(RateLimitMiddleware)
    assert _remaining(TestClient(app), "/items") == {"9/60s": 7}
    assert called == ["/items"]


def test_request_without_a_policy_has_no_headers() -> None:
    """A request that no policy applies to passes, without limit headers."""
    app = LimiterBench().install(FastAPI())
    app.get("/items")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    response = TestClient(app).get("/items", headers={"origin": "https://app.example"})
    assert response.status_code == 200
    assert parse_limits(response) == {}
    assert "Access-Control-Expose-Headers" not in response.headers
