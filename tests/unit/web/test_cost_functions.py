"""Costs from functions: one behaviour of the middleware and of the dependency."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from fleetlimit.web.dependency import ConcurrencyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench, parse_limits

both_doors = pytest.mark.parametrize("middleware", [True, False])


class BrokenQuery(Exception):
    """An exception that the app has a handler for."""


async def _teapot(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"short": "stout"}, 418)


def _client(
    cost: Callable[[HTTPConnection], Any], *, middleware: bool, mounted: bool = False
) -> TestClient:
    app = limited = FastAPI()
    if mounted:
        limited = FastAPI()
        app.mount("/sub", limited)
    limited.add_exception_handler(BrokenQuery, _teapot)
    depends = [Depends(ConcurrencyLimit(9)), Depends(RateLimit("9/minute", cost=cost))]
    limited.get("/rows", dependencies=depends)(lambda: None)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    return TestClient(LimiterBench().install(app), raise_server_exceptions=False)


def _raising(error: Exception) -> Callable[[HTTPConnection], int]:
    def cost(_connection: HTTPConnection) -> int:
        raise error

    return cost


@both_doors
@pytest.mark.parametrize("path", ["/rows", "/sub/rows"])
@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (HTTPException(400, "rows is missing"), 400, {"detail": "rows is missing"}),
        (BrokenQuery(), 418, {"short": "stout"}),
        (ValueError("broken"), 500, None),
    ],
)
def test_error_of_a_cost_function_is_handled_by_the_app(
    *, error: Exception, status: int, body: Any, path: str, middleware: bool
) -> None:
    """The app answers with its handler for the exception, and a browser can read the answer."""
    client = _client(_raising(error), middleware=middleware, mounted=path == "/sub/rows")
    response = client.get(path, headers={"origin": "https://app.example"})
    assert response.status_code == status
    if body is not None:
        assert response.json() == body
        assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("kind", [Exception, 500])
@pytest.mark.parametrize("door", ["dependency", "middleware", "wrapped by hand"])
def test_handler_for_unexpected_errors_answers_for_a_cost_function(
    door: str, kind: type[Exception] | int
) -> None:
    """The app's handler for every other error answers at each door, and the error is raised."""
    app = LimiterBench().install(FastAPI())
    app.add_exception_handler(kind, _teapot)
    depends = [Depends(RateLimit("9/minute", cost=_raising(ValueError("broken"))))]
    app.get("/rows", dependencies=depends)(lambda: None)
    if door == "middleware":
        app.add_middleware(RateLimitMiddleware)
    served = RateLimitMiddleware(app) if door == "wrapped by hand" else app
    response = TestClient(served, raise_server_exceptions=False).get("/rows")
    assert (response.status_code, response.json()) == (418, {"short": "stout"})
    with pytest.raises(ValueError, match="broken"):
        TestClient(served).get("/rows")


@both_doors
@pytest.mark.parametrize("cost", [1.5, 2.0, math.nan, "2", None, -1])
def test_cost_that_is_no_integer_is_rejected(*, cost: Any, middleware: bool) -> None:
    """Such a request spends nothing."""
    client = _client(lambda _: cost, middleware=middleware)
    assert client.get("/rows").status_code == 413


@both_doors
def test_true_is_a_cost_of_one(*, middleware: bool) -> None:
    """Any integer is a cost, and a `bool` is one."""
    client = _client(lambda _: True, middleware=middleware)
    assert parse_limits(client.get("/rows"))["9/60s"]["r"] == 8
