"""WebSockets: rejected before they are accepted, and with limit headers when accepted."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
import websockets
from fastapi import Depends, FastAPI, WebSocket
from httpx2 import Headers
from starlette.types import Message

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Match
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.eventually import PATIENCE_SECONDS
from support.limiter import rate_policy
from support.web import LimiterBench, collect_messages, websocket_scope

SOCKETS = rate_policy("sockets", "1/minute", match=Match(frozenset({"WEBSOCKET"}), ("/ws/{room}",)))
CONNECT: Message = {"type": "websocket.connect"}
GONE: Message = {"type": "websocket.disconnect", "code": 1001}
AppFactory = Callable[[LimiterBench], FastAPI]


async def room(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


def by_middleware(bench: LimiterBench) -> FastAPI:
    app = bench.install(FastAPI())
    app.websocket("/ws/{room}")(room)
    app.add_middleware(RateLimitMiddleware)
    return app


def by_dependency(bench: LimiterBench) -> FastAPI:
    app = bench.install(FastAPI())
    app.websocket("/ws/{room}", dependencies=[Depends(PolicyLimit("sockets"))])(room)
    return app


by_both = pytest.mark.parametrize("make_app", [by_middleware, by_dependency])


def _headers(message: Message) -> Headers:
    return Headers(message["headers"])


@by_both
async def test_handshake_is_rejected_with_429(make_app: AppFactory) -> None:
    """If the server supports it, a rejected handshake is answered with 429 and the reason."""
    bench = LimiterBench(SOCKETS)
    app = make_app(bench)
    sent = await collect_messages(app, websocket_scope("/ws/1", extension=True), CONNECT, GONE)
    assert sent[0]["type"] == "websocket.accept"
    start, *body = await collect_messages(
        app, websocket_scope("/ws/2", extension=True), CONNECT, GONE
    )
    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 429
    headers = _headers(start)
    assert headers["Retry-After"] == "60"
    assert headers["RateLimit"] == '"sockets";r=0;t=60'
    assert headers["Cache-Control"] == "no-store"
    problem = json.loads(b"".join(each["body"] for each in body))
    assert problem["violated-policies"] == ["sockets"]
    assert set(bench.routes) == {"WEBSOCKET /ws/{room}"}


@by_both
async def test_handshake_is_closed_with_1013(make_app: AppFactory) -> None:
    """Otherwise a rejected handshake is closed with 1013, try again later."""
    app = make_app(LimiterBench(SOCKETS))
    await collect_messages(app, websocket_scope("/ws/1", extension=False), CONNECT, GONE)
    sent = await collect_messages(app, websocket_scope("/ws/1", extension=False), CONNECT, GONE)
    assert [(each["type"], each["code"]) for each in sent] == [("websocket.close", 1013)]


async def test_accepted_handshake_has_limit_headers() -> None:
    """An accepted handshake has the headers, beside the endpoint's own."""
    app = LimiterBench(SOCKETS).install(FastAPI())

    @app.websocket("/ws/{room}")
    async def own(socket: WebSocket) -> None:
        await socket.accept(headers=[(b"x-own", b"kept")])

    app.add_middleware(RateLimitMiddleware)
    sent = await collect_messages(app, websocket_scope("/ws/1", extension=True), CONNECT, GONE)
    headers = _headers(sent[0])
    assert headers["RateLimit"] == '"sockets";r=0;t=60'
    assert headers["RateLimit-Policy"] == '"sockets";q=1;w=60'
    assert headers["X-Own"] == "kept"


async def test_accept_message_without_headers_gets_them() -> None:
    """An app that sends no list of headers gets the limit headers all the same."""
    bench = LimiterBench(SOCKETS)
    app = by_middleware(bench)

    @app.websocket("/ws/{room}/bare")
    async def bare(socket: WebSocket) -> None:
        await socket.receive()
        await socket.send({"type": "websocket.accept"})

    bench.limiter.active_policies.replace(
        LimiterBench(rate_policy("default", "9/minute")).limiter.active_policies.current
    )
    sent = await collect_messages(app, websocket_scope("/ws/1/bare", extension=True), CONNECT, GONE)
    assert _headers(sent[0])["RateLimit"] == '"default";r=8;t=7'


async def test_disconnected_client_gets_no_rejection() -> None:
    """A client that disconnected before its handshake is rejected gets no message."""
    app = by_middleware(LimiterBench(SOCKETS))
    await collect_messages(app, websocket_scope("/ws/1", extension=True), CONNECT, GONE)
    assert await collect_messages(app, websocket_scope("/ws/1", extension=True), GONE) == []


async def test_rejection_after_accept_closes_with_1013() -> None:
    """A limit that is checked after another dependency has accepted closes with 1013."""

    async def accept(socket: WebSocket) -> None:
        await socket.accept()

    app = LimiterBench(SOCKETS).install(FastAPI())

    @app.websocket("/ws/{room}", dependencies=[Depends(accept), Depends(PolicyLimit("sockets"))])
    async def late(socket: WebSocket) -> None:
        await socket.close()

    for code in (1000, 1013):
        sent = await collect_messages(app, websocket_scope("/ws/1", extension=True), CONNECT, GONE)
        assert [each["type"] for each in sent] == ["websocket.accept", "websocket.close"]
        assert sent[1]["code"] == code


async def test_limits_of_an_http_route_do_not_apply_to_a_handshake() -> None:
    """A handshake is not limited by an HTTP route of the same path."""
    app = LimiterBench(rate_policy("default", "9/minute")).install(FastAPI())

    @app.get("/ws", dependencies=[Depends(RateLimit("1/minute"))])
    async def page() -> None: ...

    app.websocket("/ws")(room)
    app.add_middleware(RateLimitMiddleware)
    sent = await collect_messages(app, websocket_scope("/ws", extension=True), CONNECT, GONE)
    assert _headers(sent[0])["RateLimit-Policy"] == '"default";q=9;w=60'


async def test_each_caller_of_a_websocket_has_a_bucket() -> None:
    """Each caller has its own bucket (fastapi-limiter #80)."""
    policy = rate_policy("sockets", "1/minute", match=Match(), key=(KeyPart(KeyKind.PRINCIPAL),))
    app = by_middleware(LimiterBench(policy))
    for name in (b"ann", b"bob"):
        scope = websocket_scope("/ws/1", extension=True, headers=[(b"x-caller", name)])
        sent = await collect_messages(app, scope, CONNECT, GONE)
        assert sent[0]["type"] == "websocket.accept"


@asynccontextmanager
async def _served(app: FastAPI) -> AsyncIterator[int]:
    """Serve an app on a free port of loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws=WS))
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


WS = "websockets-sansio"


@by_both
async def test_real_client_sees_the_rejection(make_app: AppFactory) -> None:
    """A real client of a real server sees 429 and Retry-After in place of the handshake."""
    async with _served(make_app(LimiterBench(SOCKETS))) as port, asyncio.timeout(PATIENCE_SECONDS):
        url = f"ws://127.0.0.1:{port}/ws/1"
        async with websockets.connect(url, proxy=None) as accepted:
            assert accepted.response is not None
            if make_app is by_middleware:
                assert accepted.response.headers["RateLimit"] == '"sockets";r=0;t=60'
        with pytest.raises(websockets.InvalidStatus) as rejected:
            await websockets.connect(url, proxy=None)
        response = rejected.value.response
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "60"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert json.loads(response.body or b"")["violated-policies"] == ["sockets"]
