"""WebSockets: refused before they are accepted, and told of their limits when they are."""

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

from fleetlimit.core.policy import KeyKind, KeyPart, Match
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import (
    PATIENCE_SECONDS,
    LimiterBench,
    collect_messages,
    rate_policy,
    websocket_scope,
)

SOCKETS = rate_policy("sockets", "1/minute", match=Match(frozenset({"WEBSOCKET"}), ("/ws/{room}",)))
CONNECT: Message = {"type": "websocket.connect"}
GONE: Message = {"type": "websocket.disconnect", "code": 1001}
Door = Callable[[LimiterBench], FastAPI]


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


doors = pytest.mark.parametrize("door", [by_middleware, by_dependency])


def _headers(message: Message) -> Headers:
    return Headers(message["headers"])


@doors
async def test_refused_with_429(door: Door) -> None:
    """Where the server offers it, a refused handshake is answered with 429 and the reason."""
    bench = LimiterBench(SOCKETS)
    app = door(bench)
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


@doors
async def test_refused_with_1013(door: Door) -> None:
    """Where it is not offered, a refused handshake is closed with 1013, try again later."""
    app = door(LimiterBench(SOCKETS))
    await collect_messages(app, websocket_scope("/ws/1", extension=False), CONNECT, GONE)
    sent = await collect_messages(app, websocket_scope("/ws/1", extension=False), CONNECT, GONE)
    assert [(each["type"], each["code"]) for each in sent] == [("websocket.close", 1013)]


async def test_headers_on_accept() -> None:
    """An accepted handshake carries the fields, beside the endpoint's own headers."""
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


async def test_accept_message_without_headers() -> None:
    """An app that sends no list of headers gets the fields all the same."""
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


async def test_client_gone_before_the_refusal() -> None:
    """A client that is gone before its handshake is refused is told nothing."""
    app = by_middleware(LimiterBench(SOCKETS))
    await collect_messages(app, websocket_scope("/ws/1", extension=True), CONNECT, GONE)
    assert await collect_messages(app, websocket_scope("/ws/1", extension=True), GONE) == []


async def test_refused_after_accept() -> None:
    """A limit that is asked after something else has accepted closes with 1013."""

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


async def test_http_and_websocket_of_one_path() -> None:
    """A handshake is not held by the limits of an HTTP route of the same path."""
    app = LimiterBench(rate_policy("default", "9/minute")).install(FastAPI())

    @app.get("/ws", dependencies=[Depends(RateLimit("1/minute"))])
    async def page() -> None: ...

    app.websocket("/ws")(room)
    app.add_middleware(RateLimitMiddleware)
    sent = await collect_messages(app, websocket_scope("/ws", extension=True), CONNECT, GONE)
    assert _headers(sent[0])["RateLimit-Policy"] == '"default";q=9;w=60'


async def test_two_identities() -> None:
    """Each caller has a bucket of its own at this door too (fastapi-limiter #80)."""
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


@doors
async def test_real_server_and_client(door: Door) -> None:
    """A real client of a real server sees 429 and Retry-After in place of the handshake."""
    async with _served(door(LimiterBench(SOCKETS))) as port, asyncio.timeout(PATIENCE_SECONDS):
        url = f"ws://127.0.0.1:{port}/ws/1"
        async with websockets.connect(url, proxy=None) as accepted:
            assert accepted.response is not None
            if door is by_middleware:
                assert accepted.response.headers["RateLimit"] == '"sockets";r=0;t=60'
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, proxy=None)
        response = refused.value.response
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "60"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert json.loads(response.body or b"")["violated-policies"] == ["sockets"]
