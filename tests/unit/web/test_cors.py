"""CORS: browsers can read rejections and limit headers, and preflights are free."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.limiter import rate_policy
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
