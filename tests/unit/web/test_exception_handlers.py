"""The app's own exception handlers answer rejections, with `use_exception_handlers`."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import fastapi
import pytest
import starlette.exceptions
from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from fleetlimit import (
    Fleetlimit,
    RateLimit,
    RateLimitExceeded,
    RateLimitMiddleware,
    RequestRejected,
)
from fleetlimit.web.rejections import RejectionSender
from support.doors import CONNECT, GONE, ONE, both_doors, by_middleware, items
from support.web import (
    LimiterBench,
    assert_each_once,
    collect_messages,
    parse_limits,
    websocket_scope,
)

AppFactory = Callable[..., FastAPI]


def make_bench(*, handlers: bool = True) -> LimiterBench:
    bench = LimiterBench(ONE)
    bench.http_limiter.rejection_sender = RejectionSender(use_exception_handlers=handlers)
    return bench


async def uniform(_request: Request, error: Any) -> Response:
    return JSONResponse(
        {"error": error.detail, "status": error.status_code, "retry": error.retry_after},
        error.status_code,
    )


def uniform_in_a_thread(request: Request, error: Any) -> Response:
    assert threading.current_thread() is not threading.main_thread()
    return JSONResponse(
        {"error": error.detail, "status": error.status_code, "retry": error.retry_after},
        error.status_code,
        {"X-Path": request.url.path},
    )


@both_doors
@pytest.mark.parametrize("handler", [uniform, uniform_in_a_thread])
@pytest.mark.parametrize(
    "key",
    [
        fastapi.HTTPException,
        starlette.exceptions.HTTPException,
        RequestRejected,
        RateLimitExceeded,
        429,
    ],
)
def test_handler_answers_behind_both_doors(make_app: AppFactory, handler: Any, key: Any) -> None:
    """A handler for a class or a status answers, and the response keeps the limit headers."""
    app = make_app(make_bench())
    app.add_exception_handler(key, handler)
    client = TestClient(app)
    client.get("/items")
    response = client.get("/items")
    assert response.json() == {
        "error": "The quota of default is spent; try again in 60 s.",
        "status": 429,
        "retry": 60,
    }
    assert_each_once(response.headers)
    if key in {fastapi.HTTPException, starlette.exceptions.HTTPException} or (
        make_app is by_middleware
    ):
        # FastAPI calls a handler for a rejection's own class or status without this package.
        assert response.headers["Retry-After"] == "60"
        assert parse_limits(response)["default"]["r"] == 0


@both_doors
def test_without_a_handler_the_ready_response_is_sent(make_app: AppFactory) -> None:
    """FastAPI's own handler for HTTP exceptions is not one of the app."""
    client = TestClient(make_app(make_bench()))
    client.get("/items")
    assert client.get("/items").json()["violated-policies"] == ["default"]


def test_handlers_are_not_used_by_default() -> None:
    """The middleware uses handlers only with the argument."""
    app = by_middleware(make_bench(handlers=False))
    app.add_exception_handler(starlette.exceptions.HTTPException, uniform)
    client = TestClient(app)
    client.get("/items")
    assert client.get("/items").json()["violated-policies"] == ["default"]


@pytest.mark.parametrize(("limiter", "middleware"), [(False, True), (True, False)])
def test_argument_of_the_middleware_takes_precedence(*, limiter: bool, middleware: bool) -> None:
    """The middleware's own argument decides, on or off."""
    app = make_bench(handlers=limiter).install(FastAPI())
    app.get("/items")(items)
    app.add_middleware(RateLimitMiddleware, use_exception_handlers=middleware)
    app.add_exception_handler(starlette.exceptions.HTTPException, uniform)
    client = TestClient(app)
    client.get("/items")
    assert ("error" in client.get("/items").json()) is middleware


@both_doors
def test_handler_takes_precedence_over_the_function(make_app: AppFactory) -> None:
    """`on_rejected` answers what no handler does."""
    bench = make_bench()
    bench.http_limiter.rejection_sender = RejectionSender(
        lambda *_: PlainTextResponse("function", 429), use_exception_handlers=True
    )
    app = make_app(bench)
    client = TestClient(app)
    client.get("/items")
    assert client.get("/items").text == "function"
    app.add_exception_handler(starlette.exceptions.HTTPException, uniform)
    assert "error" in client.get("/items").json()


async def raising(_request: Request, error: Exception) -> Response:
    raise error


async def never(_request: Request, _error: Exception) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def nothing(_request: Request, _error: Exception) -> None: ...


def plain_around_async(request: Request, error: Exception) -> Any:
    return uniform(request, error)


@both_doors
@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (raising, "RateLimitExceeded"),
        (never, "the exception handler did not return within 0.01 s"),
        (nothing, "the exception handler returned None: return a Response"),
        (lambda *_: {"error": 1}, "the exception handler returned dict: return a Response"),
    ],
)
def test_failure_of_a_handler_sends_the_ready_response(
    make_app: AppFactory, handler: Any, message: str, log: pytest.LogCaptureFixture
) -> None:
    """A handler that fails is logged, and does not make the rejection an error 500."""
    bench = make_bench()
    bench.http_limiter.function_timeout_s = 0.01 if handler is never else 5
    app = make_app(bench)
    app.add_exception_handler(starlette.exceptions.HTTPException, handler)
    client = TestClient(app)
    client.get("/items")
    response = client.get("/items")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "60")
    assert response.json()["violated-policies"] == ["default"]
    assert [each.message for each in log.records] == ["rejection.failed"]
    assert message in (log.records[0].exc_text or log.text)


@both_doors
def test_plain_handler_may_return_an_awaitable(make_app: AppFactory) -> None:
    """The result of a plain function around an async one is awaited."""
    app = make_app(make_bench())
    app.add_exception_handler(starlette.exceptions.HTTPException, plain_around_async)
    client = TestClient(app)
    client.get("/items")
    assert client.get("/items").json()["status"] == 429


def test_mounted_app_uses_its_own_handler_first() -> None:
    """Behind the middleware the nearest app's handler answers, or else the outer app's."""
    own, plain, outer = FastAPI(), Starlette(routes=[Route("/items", PlainTextResponse(""))]), None
    own.get("/items")(items)
    own.add_exception_handler(429, lambda *_: PlainTextResponse("own", 429))
    outer = make_bench().install(FastAPI())
    outer.mount("/own", own)
    outer.mount("/plain", plain)
    outer.add_middleware(RateLimitMiddleware)
    outer.add_exception_handler(429, lambda *_: PlainTextResponse("outer", 429))
    client = TestClient(outer)
    client.get("/own/items")
    assert client.get("/own/items").text == "own"
    assert client.get("/plain/items").text == "outer"


def test_handler_for_unexpected_errors_is_not_used() -> None:
    """A handler for `Exception` answers errors of the app, and a rejection is none."""
    app = by_middleware(make_bench())
    app.add_exception_handler(Exception, lambda *_: PlainTextResponse("failed", 500))
    client = TestClient(app)
    client.get("/items")
    assert client.get("/items").status_code == 429


async def close(socket: WebSocket, _error: Any) -> None:
    await socket.close(4000, "own")


async def deny(_socket: WebSocket, _error: Any) -> Response:
    return PlainTextResponse("own", 420)


async def fail(_socket: WebSocket, _error: Any) -> Response:
    raise RuntimeError


@both_doors
@pytest.mark.parametrize(
    ("handler", "extension", "expected"),
    [
        (close, True, ("websocket.close", None, 4000)),
        (close, False, ("websocket.close", None, 4000)),
        (deny, True, ("websocket.http.response.start", 420, None)),
        (deny, False, ("websocket.close", None, 1013)),
        (fail, True, ("websocket.http.response.start", 429, None)),
        (fail, False, ("websocket.close", None, 1013)),
        (nothing, True, ("websocket.http.response.start", 429, None)),
        (nothing, False, ("websocket.close", None, 1013)),
    ],
)
async def test_handler_answers_a_websocket(
    make_app: AppFactory,
    handler: Any,
    expected: tuple[str, int | None, int | None],
    *,
    extension: bool,
) -> None:
    """A handler closes the handshake itself, or returns the response to it."""
    app = make_app(make_bench())
    app.add_exception_handler(starlette.exceptions.HTTPException, handler)
    for _ in range(2):
        sent = await collect_messages(
            app, websocket_scope("/ws", extension=extension), CONNECT, GONE
        )
    first = sent[0]
    assert (first["type"], first.get("status"), first.get("code")) == expected
    assert len(sent) == (2 if "status" in first else 1)


@pytest.mark.parametrize("door", ["limiter", "middleware"])
@pytest.mark.parametrize(
    ("key", "warned"),
    [
        (None, True),
        (Exception, True),
        (404, True),
        (ValueError, True),
        (429, False),
        (RateLimitExceeded, False),
        (starlette.exceptions.HTTPException, False),
    ],
)
def test_flag_without_a_handler_is_warned_about(
    door: str, key: Any, log: pytest.LogCaptureFixture, *, warned: bool
) -> None:
    """The start warns if no handler of the app can answer a rejection."""
    app = FastAPI(lifespan=Fleetlimit(use_exception_handlers=door == "limiter"))
    app.get("/items", dependencies=[Depends(RateLimit("5/minute"))])(items)
    app.add_middleware(RateLimitMiddleware, use_exception_handlers=True)
    if key is not None:
        app.add_exception_handler(key, uniform)
    with TestClient(app):
        assert ("exception_handlers.missing" in log.text) is warned
