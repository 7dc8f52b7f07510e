"""Responses that the app builds itself have limit headers, behind the middleware."""

from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient

from fleetlimit.web.middleware import RateLimitMiddleware
from support.limiter import rate_policy
from support.web import LimiterBench, parse_limits


def test_response_of_the_endpoint_has_limit_headers() -> None:
    """The middleware adds the headers to a response that the endpoint built."""
    bench = LimiterBench(rate_policy("default", "5/minute"))
    app = bench.install(FastAPI())

    @app.get("/items")
    async def built() -> PlainTextResponse:
        return PlainTextResponse("x", headers={"RateLimit": "the endpoint's", "X-Own": "kept"})

    app.add_middleware(RateLimitMiddleware)
    response = TestClient(app).get("/items")
    assert parse_limits(response)["default"]["r"] == 4
    assert response.headers["X-Own"] == "kept"


def test_error_of_the_endpoint_has_limit_headers() -> None:
    """The middleware adds the headers to an endpoint's own error."""
    bench = LimiterBench(rate_policy("default", "5/minute"))
    app = bench.install(FastAPI())

    @app.get("/items")
    async def failing() -> None:
        raise HTTPException(418)

    app.add_middleware(RateLimitMiddleware)
    response = TestClient(app).get("/items")
    assert response.status_code == 418
    assert parse_limits(response)["default"]["r"] == 4
