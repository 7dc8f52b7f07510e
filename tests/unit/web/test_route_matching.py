"""Route matching: a request counts under its template, wherever the route was declared."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Match
from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_table import RouteTable
from support.limiter import rate_policy
from support.one_policy import endpoint, limited_bench, limited_client, starlette_endpoint
from support.web import LimiterBench, caller, collect_messages, http_scope, parse_limits

CALLER_AND_ROUTE = (KeyPart(KeyKind.PRINCIPAL), KeyPart(KeyKind.ROUTE))


def test_policy_matches_the_template() -> None:
    """All URLs of a template share one bucket (slowapi #217)."""
    match = Match(routes=("/items/{item_id}",))
    bench = LimiterBench(
        rate_policy("items", "2/minute", match=match), rate_policy("default", "100/minute")
    )
    app = FastAPI()
    app.get("/items/{item_id}")(endpoint)
    app.get("/other")(endpoint)
    client = limited_client(app, bench)
    assert [client.get(f"/items/{i}").status_code for i in range(3)] == [200, 200, 429]
    assert set(parse_limits(client.get("/other"))) == {"default"}


def test_key_by_route_uses_the_template() -> None:
    """A bucket per route is one for the template, not one for each URL (slowapi #227)."""
    bench = LimiterBench(rate_policy("default", "2/minute", key=CALLER_AND_ROUTE))
    app = FastAPI()
    app.get("/items/{item_id}")(endpoint)
    client = limited_client(app, bench)
    assert [client.get(f"/items/{i}").status_code for i in range(3)] == [200, 200, 429]


def test_routes_of_app_and_included_routers_are_limited() -> None:
    """Both a top-level route and an included router's are limited (slowapi #281)."""
    names = {"/top": "top", "/v1/inner": "inner", "/v1/deep/{x}/leaf": "leaf"}
    bench = LimiterBench(
        *(
            rate_policy(name, "1/minute", match=Match(routes=(path,)))
            for path, name in names.items()
        )
    )
    app = FastAPI()
    app.get("/top")(endpoint)
    deep = APIRouter(prefix="/{x}")
    deep.get("/leaf")(endpoint)
    inner = APIRouter()
    inner.get("/inner")(endpoint)
    inner.include_router(deep, prefix="/deep")
    app.include_router(inner, prefix="/v1")
    client = limited_client(app, bench)
    for path, name in names.items():
        url = path.format(x="any")
        assert set(parse_limits(client.get(url))) == {name}
        assert client.get(url).status_code == 429


def test_router_included_twice_has_two_sets_of_buckets() -> None:
    """A router that is included twice is two sets of routes."""
    router = APIRouter()
    router.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    client = TestClient(LimiterBench().install(app))
    for prefix in ("/v1", "/v2"):
        assert [client.get(f"{prefix}/items").status_code for _ in range(2)] == [200, 429]


def test_empty_path_of_a_router_is_its_prefix() -> None:
    """An included router's empty path is its prefix."""
    router = APIRouter()
    router.get("")(endpoint)
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    bench = limited_bench()
    assert limited_client(app, bench).get("/v1").status_code == 200
    assert bench.routes == ["GET /v1"]


def test_hosts_separate_routes_of_one_path() -> None:
    """Routes of one path on two hosts have their own limits only."""
    api, www = FastAPI(), FastAPI()
    api.get("/items", dependencies=[Depends(RateLimit("1/minute", name="api"))])(endpoint)
    www.get("/items", dependencies=[Depends(RateLimit("2/minute", name="www"))])(endpoint)
    app = FastAPI()
    app.router.routes += [Host("api.example.org", api), Host("{sub}.example.org", www)]
    app.get("/items")(endpoint)
    client = limited_client(app, limited_bench())
    for host, name in (
        ("api.example.org", "api"),
        ("API.example.org:8080", "api"),
        ("www.example.org", "www"),
    ):
        assert name in parse_limits(client.get("/items", headers={"host": host} | caller(host)))
    assert set(parse_limits(client.get("/items", headers={"host": "example.org"}))) == {"default"}


def test_host_in_an_included_router_has_its_prefix() -> None:
    """A host within an included router has the router's prefix."""
    api = FastAPI()
    api.get("/items")(endpoint)
    router = APIRouter()
    router.routes.append(Host("api.example.org", api))
    router.routes.append(Mount("/sub", api))
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    bench = limited_bench()
    client = limited_client(app, bench)
    for path, host in (("/v1/items", "api.example.org"), ("/v1/sub/items", "example.org")):
        included = client.get(path, headers={"host": host}).status_code == 200
        # FastAPI before 0.137 includes neither hosts nor mounts.
        assert bench.routes[-1] == (f"GET {path}" if included else "unmatched")


def test_root_path_is_not_part_of_the_template() -> None:
    """A prefix that a proxy strips, or leaves, is not part of the template."""
    for path in ("/items", "/api/items"):
        app = FastAPI(openapi_url=None)
        app.get("/items")(endpoint)
        bench = limited_bench()
        app.add_middleware(RateLimitMiddleware)
        client = TestClient(bench.install(app), root_path="/api")
        assert client.get(path).status_code == 200
        assert bench.routes == ["GET /items"]


@pytest.mark.parametrize("path", ["/items", "/api/items"])
@pytest.mark.parametrize("wrap", [lambda app: app, GZipMiddleware])
@pytest.mark.parametrize("dependencies", [[], [Depends(RateLimit("9/minute"))]])
def test_root_path_of_an_app_that_is_wrapped_by_hand(
    wrap: Callable[[ASGIApp], ASGIApp], path: str, dependencies: list[Any]
) -> None:
    """`RateLimitMiddleware(app)` matches the routes as `app.add_middleware` does."""
    app = FastAPI(openapi_url=None)
    app.root_path = "/api"  # newer versions of FastAPI deprecate the argument
    app.get("/items", dependencies=dependencies)(endpoint)
    mounted = FastAPI()
    mounted.get("/items")(endpoint)
    app.mount("/sub", mounted)
    bench = limited_bench()
    client = TestClient(RateLimitMiddleware(wrap(bench.install(app))))
    assert client.get(path).status_code == 200
    # Starlette serves a mount below the root path only.
    assert client.get("/api/sub/items").status_code == 200
    assert bench.routes == ["GET /items", "GET /sub/items"]


def test_dependency_finds_a_mount_below_a_root_path() -> None:
    """The dependency finds a mount below a root path as the middleware does."""
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items", dependencies=[Depends(RateLimit("9/minute"))])(endpoint)
    bench = LimiterBench()
    outer.mount("/sub", bench.install(inner))
    client = TestClient(outer, root_path="/api")
    assert client.get("/api/sub/items").status_code == 200
    assert bench.routes == ["GET /sub/items"]


def test_unmatched_requests_count_under_default() -> None:
    """404, redirects, and 405 by its path, count under `default`."""
    bench = LimiterBench(
        rate_policy("default", "9/minute"),
        rate_policy("exports", "5/minute", match=Match(frozenset({"POST"}), ("/exports",))),
    )
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.post("/exports", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    client = limited_client(app, bench)
    for left, (method, path, status) in enumerate(
        [("GET", "/nowhere", 404), ("GET", "/exports", 405), ("POST", "/exports/", 307)], start=1
    ):
        response = client.request(method, path, follow_redirects=False)
        assert response.status_code == status
        assert parse_limits(response)["default"]["r"] == 9 - left
    assert client.post("/exports").status_code == 200, "405 spent nothing of the route's own limit"
    assert bench.routes == ["unmatched", "POST /exports", "unmatched", "POST /exports"]


def _add_routes_later(app: FastAPI, where: str) -> None:
    """Add `/v1/late/{x}` to an app, to a router or to a mounted app that it has, or with one."""
    router, mounted = APIRouter(), FastAPI()
    router.get("/late/{x}")(endpoint)
    mounted.get("/late/{x}")(endpoint)
    if where == "app":
        app.get("/v1/late/{x}")(endpoint)
    elif where == "included router":
        app.include_router(router, prefix="/v1")
    elif where == "mounted app":
        app.mount("/v1", mounted)
    elif where == "replaced routes":
        app.router.routes = [Route("/v1/late/{x}", starlette_endpoint)]
    elif where == "first of the routes":
        app.router.routes.insert(0, Route("/v1/late/{x}", starlette_endpoint))
    elif where == "replaced route":
        app.router.routes[-1] = Route("/v1/late/{x}", starlette_endpoint)


@pytest.mark.parametrize(
    "where",
    [
        "app",
        "included router",
        "mounted app",
        "replaced routes",
        "first of the routes",
        "replaced route",
    ],
)
def test_table_follows_the_app(where: str) -> None:
    """Routes added after the first request have their own templates, buckets and policies."""
    bench = LimiterBench(
        rate_policy("default", "9/minute"),
        rate_policy("late", "1/minute", match=Match(routes=("/v1/late/{x}",))),
    )
    app = FastAPI(openapi_url=None)
    app.get("/items")(endpoint)
    client = limited_client(app, bench)
    client.get("/items")
    assert client.get("/v1/late/1").status_code == 404
    _add_routes_later(app, where)
    assert [client.get(f"/v1/late/{x}").status_code for x in range(2)] == [200, 429]
    assert bench.routes == ["GET /items", "unmatched", "GET /v1/late/{x}", "GET /v1/late/{x}"]


@pytest.mark.parametrize("where", ["router", "router in a router", "mount", "mount in a mount"])
def test_table_follows_routers_and_mounts(where: str) -> None:
    """So have routes added to a router or a mounted app that the app has already."""
    app, mounted, inner = FastAPI(), FastAPI(), FastAPI()
    router, child = APIRouter(), APIRouter()
    router.get("/items")(endpoint)
    child.get("/items")(endpoint)
    router.include_router(child, prefix="/child")
    app.include_router(router, prefix="/router")
    mounted.mount("/inner", inner)
    app.mount("/mount", mounted)
    bench = limited_bench()
    client = limited_client(app, bench)
    client.get("/router/items")
    places: dict[str, tuple[APIRouter | FastAPI, str]] = {
        "router": (router, "/router/late"),
        "router in a router": (child, "/router/child/late"),
        "mount": (mounted, "/mount/late"),
        "mount in a mount": (inner, "/mount/inner/late"),
    }
    target, path = places[where]
    target.get("/late", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    statuses = [client.get(path).status_code for _ in range(2)]
    # FastAPI before 0.137 copies the routes of a router when it is included.
    assert statuses == [200, 429] or (statuses == [404, 404] and "router" in where)
    if statuses[0] == 200:
        assert bench.routes[1:] == [f"GET {path}"] * 2


def test_table_follows_the_order_of_the_routes() -> None:
    """The first route that matches decides, in the order that the app has now."""
    app = FastAPI()
    for path in ("/items/{x}", "/items/all"):
        app.get(path, dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    bench = limited_bench()
    client = limited_client(app, bench)
    client.get("/items/all")
    app.router.routes.reverse()
    assert client.get("/items/all").status_code == 200
    assert bench.routes == ["GET /items/{x}", "GET /items/all"]


def test_table_follows_the_routes_of_an_empty_or_changed_mount() -> None:
    """So have the routes of a mounted app that had none, and those of a new list."""
    app, mounted = FastAPI(), Starlette()
    app.mount("/mount", mounted)
    bench = limited_bench()
    client = limited_client(app, bench)
    client.get("/mount/first")
    mounted.router.routes.append(Route("/first", starlette_endpoint))
    client.get("/mount/first")
    mounted.router.routes = [Route("/second", starlette_endpoint)]
    client.get("/mount/second")
    templates = ["ANY /mount/{path:path}", "GET /mount/first", "GET /mount/second"]
    assert bench.routes == templates


def test_head_counts_as_get() -> None:
    """HEAD does what GET does (RFC 9110, 9.3.2), so GET's policies apply to it."""
    match = Match(frozenset({"GET"}), ("/items",))
    bench = LimiterBench(rate_policy("items", "2/minute", match=match, key=CALLER_AND_ROUTE))
    app = FastAPI(routes=[Route("/items", starlette_endpoint)])
    client = limited_client(app, bench)
    found = [client.request(method, "/items").status_code for method in ("HEAD", "GET", "HEAD")]
    assert found == [200, 200, 429]


def test_route_with_several_methods_has_one_bucket() -> None:
    """A route that was added with several methods is one route, with one bucket."""
    app = FastAPI()
    app.add_api_route(
        "/items", endpoint, methods=["PUT", "GET"], dependencies=[Depends(RateLimit("2/minute"))]
    )
    bench = LimiterBench()
    client = limited_client(app, bench)
    assert [client.request(each, "/items").status_code for each in ("GET", "PUT", "GET")] == [
        200,
        200,
        429,
    ]
    assert set(bench.routes) == {"GET,PUT /items"}


def test_methods_separate_routes_of_one_path() -> None:
    """Routes of one path with different methods have their own buckets."""
    app = FastAPI()
    app.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    app.put("/items", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    client = limited_client(app, LimiterBench())
    assert [client.request(each, "/items").status_code for each in ("GET", "PUT")] == [200, 200]


def test_first_matching_route_counts() -> None:
    """The first route that matches is the one that the app runs and that counts."""
    app = FastAPI()
    app.get("/items/{item_id}", dependencies=[Depends(RateLimit("1/minute", name="any"))])(endpoint)
    app.get("/items/latest", dependencies=[Depends(RateLimit("1/minute", name="latest"))])(endpoint)
    client = limited_client(app, LimiterBench())
    assert set(parse_limits(client.get("/items/latest"))) == {"any"}


def test_starlette_app_is_limited() -> None:
    """The middleware limits an app of Starlette."""
    bench = limited_bench()
    app = Starlette(
        routes=[Route("/items/{id:int}", starlette_endpoint)],
        middleware=[Middleware(RateLimitMiddleware, http_limiter=bench.http_limiter)],
    )
    assert set(parse_limits(TestClient(app).get("/items/7"))) == {"default"}
    assert bench.routes == ["GET /items/{id:int}"]


async def test_any_asgi_app_is_limited() -> None:
    """Any ASGI app can be limited, with a limiter and with the routes that are given."""
    bench = limited_bench()
    app = RateLimitMiddleware(
        PlainTextResponse(""),
        http_limiter=bench.http_limiter,
        routes=RouteTable([RouteInfo("/items/{id}")]),
    )
    await collect_messages(app, http_scope("/items/7"))
    await collect_messages(app, http_scope("/else"))
    assert bench.routes == ["ANY /items/{id}", "unmatched"]
