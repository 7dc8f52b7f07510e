"""CORS: browsers can read rejections and limit headers, and preflights are free."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Host, Mount, Route, Router
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.limiter import rate_policy
from support.one_policy import starlette_endpoint
from support.web import LimiterBench, assert_each_once, parse_limits

ORIGIN = {"origin": "https://app.example"}
LIMIT_HEADERS = {"RateLimit", "RateLimit-Policy", "Retry-After"}


async def items() -> None: ...


def _client(*order: Any, limit: str = "2/minute", **cors: Any) -> tuple[LimiterBench, TestClient]:
    """Return a client of an app with these middlewares, the last one outermost."""
    bench = LimiterBench(rate_policy("default", limit))
    app = bench.install(FastAPI())
    app.get("/items")(items)
    options = {"allow_origins": ["https://app.example"], "allow_methods": ["*"], **cors}
    for each in order:
        app.add_middleware(each, **(options if each is CORSMiddleware else {}))
    return bench, TestClient(app)


def _exposed(headers: Any) -> list[str]:
    return [name.strip() for name in headers["Access-Control-Expose-Headers"].split(",")]


both_orders = pytest.mark.parametrize(
    "order",
    [(CORSMiddleware, RateLimitMiddleware), (RateLimitMiddleware, CORSMiddleware)],
    ids=["cors-inside", "cors-outside"],
)


@both_orders
@pytest.mark.parametrize("cors", [{}, {"allow_origins": ["*"]}, {"allow_credentials": True}])
def test_rejection_has_cors_headers(order: tuple[Any, ...], cors: dict[str, Any]) -> None:
    """A script can read a rejection, inside or outside of the CORS middleware."""
    _, client = _client(*order, **cors)
    for status in (200, 200, 429):
        response = client.get("/items", headers=ORIGIN)
        assert response.status_code == status
        parse_limits(response)
        allowed = "*" if cors.get("allow_origins") else ORIGIN["origin"]
        assert response.headers["Access-Control-Allow-Origin"] == allowed
        assert set(_exposed(response.headers)) == LIMIT_HEADERS
    assert response.headers["Content-Type"] == "application/problem+json"


@both_orders
def test_rejection_allows_no_foreign_origin(order: tuple[Any, ...]) -> None:
    """A rejection allows no origin that the app does not allow."""
    _, client = _client(*order)
    for _ in range(3):
        response = client.get("/items", headers={"origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in response.headers
    assert response.status_code == 429


@both_orders
def test_preflight_is_not_limited(order: tuple[Any, ...]) -> None:
    """The CORS middleware answers preflights; they are not rejected and spend nothing."""
    bench, client = _client(*order)
    preflight = ORIGIN | {"access-control-request-method": "GET"}
    for _ in range(5):
        response = client.options("/items", headers=preflight)
        assert response.status_code == 200
        assert "RateLimit" not in response.headers
    assert bench.store.acquire_calls == 0


def test_options_without_preflight_headers_is_limited() -> None:
    """OPTIONS without the two headers of a preflight is limited as any request."""
    _, client = _client(RateLimitMiddleware)
    for headers in (ORIGIN, {"access-control-request-method": "GET"}):
        client.options("/items", headers=headers)
    assert client.options("/items").status_code == 429


def test_preflight_without_a_cors_middleware_is_limited() -> None:
    """OPTIONS with the headers of a preflight reaches the app's own endpoint, which is limited."""
    _, client = _client(RateLimitMiddleware)
    preflight = ORIGIN | {"access-control-request-method": "GET"}
    client.app.options("/items")(items)  # type: ignore[attr-defined]
    statuses = [client.options("/items", headers=preflight).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def _part_with_cors(part: str) -> FastAPI:
    """Return an app whose path `/part/items` is behind a CORS middleware, and `/items` is not."""
    cors = Middleware(CORSMiddleware, allow_origins=["*"])
    route = Route("/items", starlette_endpoint)
    app = FastAPI()
    app.get("/items")(items)
    if part == "mounted app":
        mounted = FastAPI()
        mounted.add_middleware(CORSMiddleware, allow_origins=["*"])
        mounted.get("/items")(items)
        app.mount("/part", mounted)
    elif part == "mounted app in a mount":
        mounted_too = Starlette(routes=[route], middleware=[cors])
        app.mount("/part", Starlette(routes=[Mount("", mounted_too)]))
    elif part == "mount":
        app.router.routes.append(Mount("/part", routes=[route], middleware=[cors]))
    elif part == "router":
        app.mount("/part", Router([route], middleware=[cors]))
    elif part == "wrapped app":
        app.mount("/part", CORSMiddleware(Router([route]), allow_origins=["*"]))
    elif part == "host":
        inner = Starlette(routes=[Mount("/part", routes=[route])], middleware=[cors])
        app.router.routes.insert(0, Host("part.example", inner))
    elif part == "route":
        every = ["GET", "OPTIONS"]
        app.router.routes.append(
            Route("/part/items", starlette_endpoint, methods=every, middleware=[cors])
        )
    return app


@pytest.mark.parametrize(
    "part",
    [
        "mounted app",
        "mounted app in a mount",
        "mount",
        "router",
        "wrapped app",
        "host",
        "route",
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_cors_of_a_part_applies_to_its_rejections_and_preflights(
    *, part: str, by_hand: bool
) -> None:
    """A rejection can be read where the response could be, and only there."""
    bench = LimiterBench(rate_policy("default", "2/minute"))
    app = bench.install(_part_with_cors(part))
    if by_hand:
        client = TestClient(RateLimitMiddleware(app))
    else:
        app.add_middleware(RateLimitMiddleware)
        client = TestClient(app)
    headers = ORIGIN | {"host": "part.example"}
    preflight = headers | {"access-control-request-method": "GET"}
    for status in (200, 200, 429):
        assert client.options("/part/items", headers=preflight).status_code == 200
        response = client.get("/part/items", headers=headers)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert set(_exposed(response.headers)) == LIMIT_HEADERS
    if part != "host":
        rejected = client.get("/items", headers=ORIGIN)
        assert rejected.status_code == 429
        assert "Access-Control-Allow-Origin" not in rejected.headers
        assert client.options("/items", headers=preflight).status_code == 429


def test_inner_cors_applies_where_the_outer_one_allows_nothing() -> None:
    """Every CORS middleware that the response would pass adds its headers to the rejection."""
    bench = LimiterBench(rate_policy("default", "1/minute"))
    app = bench.install(_part_with_cors("mounted app"))
    app.add_middleware(CORSMiddleware, allow_origins=["https://other.example"])
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    for status in (200, 429):
        response = client.get("/part/items", headers=ORIGIN)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_cors_of_an_app_wrapped_by_hand_applies() -> None:
    """`RateLimitMiddleware(app)` finds the CORS middleware that was added to the app."""
    bench = LimiterBench(rate_policy("default", "1/minute"))
    app = bench.install(FastAPI())
    app.get("/items")(items)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    client = TestClient(RateLimitMiddleware(app))
    for status in (200, 429):
        response = client.get("/items", headers=ORIGIN)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_cors_that_is_added_after_wrapping_by_hand_applies() -> None:
    """An app may get middlewares until its first request."""
    app = FastAPI()
    app.get("/items")(items)
    client = TestClient(RateLimitMiddleware(app))
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    LimiterBench(rate_policy("default", "1/minute")).install(app)
    preflight = {**ORIGIN, "Access-Control-Request-Method": "GET"}
    assert [client.options("/items", headers=preflight).status_code for _ in range(2)] == [200, 200]
    responses = [client.get("/items", headers=ORIGIN) for _ in range(2)]
    assert [each.status_code for each in responses] == [200, 429]
    assert responses[1].headers["Access-Control-Allow-Origin"] == "*"


class PublicCORS(CORSMiddleware):
    """CORS of some paths alone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests for other paths on."""
        public = scope["type"] != "http" or scope["path"].startswith("/public")
        await (super().__call__ if public else self.app)(scope, receive, send)


@pytest.mark.parametrize("part", ["app", "route"])
def test_preflight_that_a_cors_middleware_passes_on_is_limited(part: str) -> None:
    """A subclass that answers some requests alone makes only those free."""
    cors = [Middleware(PublicCORS, allow_origins=["*"])]
    of_app, of_route = (cors, None) if part == "app" else (None, cors)
    app = LimiterBench(rate_policy("default", "1/minute")).install(FastAPI(middleware=of_app))
    for path in ("/private", "/public"):
        route = Route(path, starlette_endpoint, methods=["OPTIONS"], middleware=of_route)
        app.router.routes.append(route)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    preflight = {**ORIGIN, "Access-Control-Request-Method": "GET"}
    for path, expected in {"/private": [200, 429], "/public": [200, 200]}.items():
        assert [client.options(path, headers=preflight).status_code for _ in range(2)] == expected


def test_preflight_that_a_route_answers_with_405_is_limited() -> None:
    """A route without OPTIONS does not run its own CORS middleware for a preflight."""
    bench = LimiterBench(rate_policy("default", "1/minute"))
    cors = Middleware(CORSMiddleware, allow_origins=["*"])
    app = bench.install(FastAPI())
    app.router.routes.append(Route("/items", starlette_endpoint, middleware=[cors]))
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    preflight = ORIGIN | {"access-control-request-method": "GET"}
    statuses = [client.options("/items", headers=preflight).status_code for _ in range(2)]
    assert statuses == [405, 429]


def test_exposed_headers_of_the_app_are_kept() -> None:
    """Headers that the app exposes stay exposed, in one header with the limit headers."""
    _, client = _client(
        CORSMiddleware,
        RateLimitMiddleware,
        limit="1/minute",
        expose_headers=["X-Own", "Retry-After"],
    )
    for status in (200, 429):
        response = client.get("/items", headers=ORIGIN)
        assert response.status_code == status
        assert_each_once(response.headers)
        names = _exposed(response.headers)
        assert sorted(names) == sorted(LIMIT_HEADERS | {"X-Own"})


def test_no_header_is_exposed_without_an_origin() -> None:
    """A client that sends no Origin gets no Access-Control-Expose-Headers."""
    _, client = _client(RateLimitMiddleware)
    assert "Access-Control-Expose-Headers" not in client.get("/items").headers


def test_rejection_by_a_dependency_has_cors_headers() -> None:
    """A dependency's rejection passes through the app's CORS middleware."""
    app = LimiterBench().install(FastAPI())
    app.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(items)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    client = TestClient(app)
    client.get("/items")
    response = client.get("/items", headers=ORIGIN)
    assert response.status_code == 429
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert set(_exposed(response.headers)) == LIMIT_HEADERS
    parse_limits(response)
