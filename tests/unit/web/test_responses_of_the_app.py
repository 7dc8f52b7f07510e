"""What an app answers by itself has the fields as well, behind the middleware."""

from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient

from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench, parse_limits, rate_policy


def test_endpoint_that_returns_a_response() -> None:
    """Behind the middleware the fields are on a response that the endpoint built itself."""
    bench = LimiterBench(rate_policy("default", "5/minute"))
    app = bench.install(FastAPI())

    @app.get("/items")
    async def built() -> PlainTextResponse:
        return PlainTextResponse("x", headers={"RateLimit": "the endpoint's", "X-Own": "kept"})

    app.add_middleware(RateLimitMiddleware)
    response = TestClient(app).get("/items")
    assert parse_limits(response)["default"]["r"] == 4
    assert response.headers["X-Own"] == "kept"


def test_error_of_the_endpoint() -> None:
    """An endpoint's own errors carry the fields too, behind the middleware."""
    bench = LimiterBench(rate_policy("default", "5/minute"))
    app = bench.install(FastAPI())

    @app.get("/items")
    async def failing() -> None:
        raise HTTPException(418)

    app.add_middleware(RateLimitMiddleware)
    response = TestClient(app).get("/items")
    assert response.status_code == 418
    assert parse_limits(response)["default"]["r"] == 4
