"""The middleware and dependencies together: one decision, each policy once."""

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fleetlimit.core.policy import Match
from fleetlimit.errors import ConfigError
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench, caller, parse_limits, rate_policy


async def endpoint() -> None: ...


def _standing(client: TestClient, path: str) -> dict[str, int]:
    return {name: each["r"] for name, each in parse_limits(client.get(path)).items()}


def test_each_policy_counts_once() -> None:
    """A policy that matches a route and is named by it counts once, at the cost named."""
    match = Match(routes=("/items",))
    bench = LimiterBench(
        rate_policy("items", "9/minute", match=match), rate_policy("all", "9/minute", match=Match())
    )
    app = bench.install(FastAPI(dependencies=[Depends(RateLimit("9/minute"))]))
    app.get("/items", dependencies=[Depends(PolicyLimit("items", cost=3))])(endpoint)
    app.add_middleware(RateLimitMiddleware)
    assert _standing(TestClient(app), "/items") == {"items": 6, "all": 8, "9/60s": 8}
    assert bench.store.acquire_calls == 1


def test_middleware_may_be_wrapped_by_hand() -> None:
    """Around the whole app it does what it does within."""
    bench = LimiterBench(rate_policy("items", "1/minute", match=Match(routes=("/items/{item}",))))
    app = bench.install(FastAPI())
    app.get("/items/{item}")(endpoint)
    client = TestClient(RateLimitMiddleware(app))
    assert [client.get(f"/items/{item}").status_code for item in range(2)] == [200, 429]


def test_an_app_of_no_framework_needs_a_gate() -> None:
    """Where no app can have a gate, the error says how to give one."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(ConfigError, match="http_limiter="):
        TestClient(RateLimitMiddleware(plain)).get("/")


def test_refusal_spends_nothing_elsewhere() -> None:
    """A refusal by the route's own limit spends nothing of the default policy."""
    bench = LimiterBench(rate_policy("default", "9/minute"))
    app = bench.install(FastAPI())
    app.get("/tight", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    app.get("/free")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert [client.get("/tight").status_code for _ in range(4)] == [200, 429, 429, 429]
    assert _standing(client, "/free") == {"default": 7}


def test_refusal_by_the_default_spends_nothing_of_the_route() -> None:
    """A refusal by the default policy spends nothing of the route's own limit."""
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


def test_two_identities_behind_the_middleware() -> None:
    """The middleware gives each caller a bucket, as the dependency does (fastapi-limiter #80)."""
    bench = LimiterBench(rate_policy("default", "1/minute"))
    app = bench.install(FastAPI())
    app.get("/items")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    for headers in (caller("ann"), caller("bob"), {}):
        found = [client.get("/items", headers=headers).status_code for _ in range(2)]
        assert found == [200, 429]


def test_tiers() -> None:
    """The caller's tier chooses the limits."""
    default = rate_policy("default", "1/minute")
    pro = rate_policy("pro", "3/minute", match=Match(tiers=frozenset({"pro"})))
    bench = LimiterBench(default, pro)
    app = bench.install(FastAPI())
    app.get("/items")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert set(parse_limits(client.get("/items", headers=caller("ann/pro")))) == {"pro"}
    assert set(parse_limits(client.get("/items", headers=caller("bob/free")))) == {"default"}


def test_middleware_twice_counts_once() -> None:
    """The middleware around an app and around an app mounted in it are one door."""
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items", dependencies=[Depends(RateLimit("9/minute"))])(endpoint)
    inner.add_middleware(RateLimitMiddleware)
    outer.add_middleware(RateLimitMiddleware)
    outer.add_middleware(RateLimitMiddleware)
    bench = LimiterBench(rate_policy("default", "9/minute"))
    outer.mount("/sub", bench.install(inner))
    client = TestClient(bench.install(outer))
    assert _standing(client, "/sub/items") == {"default": 8, "9/60s": 8}
    assert bench.store.acquire_calls == 1


def test_two_gates_both_decide() -> None:
    """An app with a gate of its own is limited by it as well, behind another gate."""
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


def test_dependency_that_the_table_did_not_know() -> None:
    """A limit on a route added late decides by itself, with its fields on the answer."""
    bench = LimiterBench(rate_policy("default", "9/minute"))
    app = bench.install(FastAPI())
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert client.get("/items").status_code == 404
    app.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    assert _standing(client, "/items") == {"default": 7, "1/60s": 0}
    refused = client.get("/items", headers={"origin": "https://app.example"})
    assert refused.status_code == 429
    assert refused.json()["violated-policies"] == ["1/60s"]
    assert parse_limits(refused)["1/60s"]["r"] == 0


def test_limits_that_middleware_and_route_share() -> None:
    """A cost function is asked once when middleware and dependency both meet the limit."""
    asked: list[str] = []

    def cost(connection: HTTPConnection) -> int:
        asked.append(connection.url.path)
        return 2

    router = APIRouter(dependencies=[Depends(RateLimit("9/minute", cost=cost))])
    router.get("/items")(endpoint)
    app = LimiterBench().install(FastAPI())
    app.include_router(router)
    app.add_middleware(RateLimitMiddleware)
    assert _standing(TestClient(app), "/items") == {"9/60s": 7}
    assert asked == ["/items"]


def test_nothing_held() -> None:
    """A request that no policy holds passes, without fields."""
    app = LimiterBench().install(FastAPI())
    app.get("/items")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    response = TestClient(app).get("/items", headers={"origin": "https://app.example"})
    assert response.status_code == 200
    assert parse_limits(response) == {}
    assert "Access-Control-Expose-Headers" not in response.headers
