"""Bounds on request heads, pipelines and connections, with real sockets and uvicorn's server."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from fleetlimit.server.bounded_protocol import MAX_PIPELINED, BoundedProtocol
from fleetlimit.server.runner import _make_server, _UvicornServer
from fleetlimit.server.settings import ServerSettings
from support.eventually import eventually_async

HEAD = b"GET / HTTP/1.1\r\nHost: test\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
MAX_BYTES, MAX_HEADERS, MAX_CONNECTIONS = 65_536, 100, 5
TIMEOUT_S = 10


class EchoApp:
    """App that answers with the size of the body, once `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.requests = 0
        self.received: list[Message] = []
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        self.requests += 1
        if scope["path"] == "/early":
            await self.answer(send, b"early")
            return
        size, more = 0, True
        while more:
            message = await receive()
            self.received.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await self.gate.wait()
        self.headers = scope["headers"]
        await self.answer(send, b"%d" % size)

    async def answer(self, send: Send, body: bytes) -> None:
        """Send a response."""
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Bounded:
    """Server with bounds, and its app."""

    def __init__(self, app: EchoApp, server: _UvicornServer) -> None:
        self.app = app
        self._server = server

    @property
    def port(self) -> int:
        """Port of the server."""
        return self._server.listening_port

    @property
    def connections(self) -> list[BoundedProtocol]:
        """Connections that the server knows, those of WebSockets excluded."""
        every = self._server.server_state.connections
        return [each for each in every if isinstance(each, BoundedProtocol)]

    async def open(self, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            writer.write(part)
        return reader, writer

    async def exchange(self, *parts: bytes) -> bytes:
        """Send bytes over a new connection, and return all bytes that come back."""
        reader, writer = await self.open(*parts)
        with contextlib.closing(writer):
            return await reader.read()

    async def received(self, count: int) -> None:
        """Wait until the only connection has received this many bytes of a head."""
        await eventually_async(
            lambda: [each._unparsed_bytes for each in self.connections] == [count]
        )

    def pass_time(self, seconds: float) -> None:
        """Check the time limits as if some time had passed."""
        now = asyncio.get_running_loop().time() + seconds
        for each in self.connections:
            each.close_if_late(now)


@pytest.fixture
async def bounded() -> AsyncIterator[Bounded]:
    """Return a running server."""
    app = EchoApp()
    settings = ServerSettings.load(head_timeout=TIMEOUT_S)
    server = _make_server(app, "127.0.0.1", 0, settings, MAX_CONNECTIONS, lifespan="off", ws="auto")
    task = asyncio.create_task(server.serve())
    await server.listening.wait()
    yield Bounded(app, server)
    app.gate.set()
    server.force_exit = server.should_exit = True
    await task


def closing(head: bytes) -> bytes:
    """Return a complete head that ends the connection."""
    return head + b"Connection: close\r\n\r\n"


def status_of(response: bytes) -> int:
    """Return the status of the first response."""
    return int(response.split()[1])


async def test_head_at_the_bounds_is_served(bounded: Bounded) -> None:
    """A head of exactly the permitted bytes and headers is served."""
    used = len("/") + sum(map(len, [b"Host: test\r\n", b"Connection: close\r\n", b"X: \r\n"]))
    line = b"X: " + b"a" * (MAX_BYTES - used) + b"\r\n"
    assert status_of(await bounded.exchange(closing(HEAD + line))) == 200
    many = b"".join(b"x-%d: a\r\n" % each for each in range(MAX_HEADERS - 2))
    assert status_of(await bounded.exchange(closing(HEAD + many))) == 200


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD, b"X: " + b"a" * MAX_BYTES, b"\r\n\r\n"],
        [HEAD, b"X: ", *[b"a" * 65_536] * 64],
        [HEAD, b"a" * 2 * MAX_BYTES],
        [b"GET /" + b"a" * 2 * MAX_BYTES],
        [b"GET / HTTP/1.1\r\n" + b"X: " + b" " * 2 * MAX_BYTES],
        [HEAD, *[b"x: " + b"a" * 1_000 + b"\r\n"] * 70, b"\r\n"],
        [b"G" * 2 * MAX_BYTES],
    ],
    ids=["one line", "unfinished", "name", "target", "blanks", "many lines", "method"],
)
async def test_large_head_is_refused(bounded: Bounded, parts: list[bytes]) -> None:
    """A head above the bound is refused before the app runs, and the response arrives."""
    response = await bounded.exchange(*parts)
    # The parser itself refuses an unknown method.
    assert status_of(response) == (400 if parts[0].startswith(b"GG") else 431)
    assert b"connection: close" in response
    assert bounded.app.requests == 0


@pytest.mark.parametrize("end", [b"\r\n", b""], ids=["complete", "unfinished"])
async def test_many_headers_are_refused(bounded: Bounded, end: bytes) -> None:
    """The headers are counted before they are all parsed."""
    lines = b"a:\r\n" * (MAX_HEADERS + 1 if end else 100_000)
    response = await bounded.exchange(HEAD + lines + end)
    assert status_of(response) == 431
    assert b"more than 100 headers" in response
    assert bounded.app.requests == 0


@pytest.mark.parametrize(
    "parts",
    [
        [b"5\r\nhello\r\n0\r\nX: ", b"a" * 2 * MAX_BYTES],
        [b"5\r\nhello\r\n0\r\n", b"a:\r\n" * 1_000],
        [b"5\r\nhello\r\n0\r\n" + b"a:\r\n" * (MAX_HEADERS + 1) + b"\r\n"],
        [b"5;x=", b"a" * 2 * MAX_BYTES],
    ],
    ids=["trailer", "trailers", "complete trailers", "chunk extension"],
)
async def test_bytes_around_a_body_are_refused(bounded: Bounded, parts: list[bytes]) -> None:
    """Trailers and chunk headers are bounded like a head, and the app sees a disconnect."""
    assert status_of(await bounded.exchange(CHUNKED, *parts)) == 431
    await eventually_async(lambda: bounded.app.received[-1:] == [{"type": "http.disconnect"}])


async def test_trailers_are_no_headers(bounded: Bounded) -> None:
    """A proxy that sets a header such as X-Forwarded-For leaves the trailers as they are."""
    head = closing(CHUNKED.removesuffix(b"\r\n"))
    trailer = b"X-Forwarded-For: 192.0.2.1\r\n\r\n"
    assert status_of(await bounded.exchange(head + b"1\r\na\r\n0\r\n" + trailer)) == 200
    assert [name for name, _ in bounded.app.headers] == [
        b"host",
        b"transfer-encoding",
        b"connection",
    ]


@pytest.mark.parametrize(
    "rest",
    [b"0\r\n" + b"a:\r\n" * (MAX_HEADERS + 1) + b"\r\n", b"5;x=" + b"a" * 2 * MAX_BYTES, b"wrong"],
    ids=["trailers", "chunk extension", "chunk"],
)
async def test_request_has_one_response(bounded: Bounded, rest: bytes) -> None:
    """A refusal after the response would be taken for the response to the next request."""
    reader, writer = await bounded.open(CHUNKED.replace(b"POST /", b"POST /early"))
    with contextlib.closing(writer):
        response = await reader.readuntil(b"early")
        writer.write(rest)
        assert status_of(response) == 200
        assert await reader.read() == b""


async def test_large_body_is_served(bounded: Bounded) -> None:
    """The bounds are on heads: a body is the app's, in one part or in many small chunks."""
    length = b"Content-Length: 1000000\r\n"
    response = await bounded.exchange(closing(HEAD + length), b"a" * 1_000_000)
    assert response.endswith(b"\r\n1000000")
    head = closing(CHUNKED.removesuffix(b"\r\n"))
    response = await bounded.exchange(head, b"1\r\na\r\n" * 40_000, b"0\r\n\r\n")
    assert response.endswith(b"\r\n40000")


async def test_head_in_single_bytes_is_served(bounded: Bounded) -> None:
    """The bounds do not depend on how the network splits a head."""
    reader, writer = await bounded.open()
    with contextlib.closing(writer):
        for index, each in enumerate(closing(HEAD)[:-1]):
            writer.write(bytes([each]))
            await bounded.received(index + 1)
        writer.write(b"\n")
        assert status_of(await reader.read()) == 200


async def test_bound_applies_to_each_request_of_a_connection(bounded: Bounded) -> None:
    """Heads do not add up, and one behind other requests is bounded as well."""
    head = HEAD + b"X: " + b"a" * 30_000 + b"\r\n"
    reader, writer = await bounded.open()
    with contextlib.closing(writer):
        for _ in range(5):
            writer.write(head + b"\r\n")
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
        writer.write(HEAD + b"X: " + b"a" * MAX_BYTES + b"\r\n\r\n")
        assert status_of(await reader.read()) == 431


async def test_refused_head_does_not_break_into_a_response(bounded: Bounded) -> None:
    """An earlier request is answered in full, and then the refusal follows."""
    bounded.app.gate.clear()
    reader, writer = await bounded.open(HEAD + b"\r\n" + HEAD + b"X: " + b"a" * 2 * MAX_BYTES)
    with contextlib.closing(writer):
        await eventually_async(lambda: bounded.app.requests == 1)
        writer.write(b"not HTTP\r\n\r\n")
        bounded.app.gate.set()
        response = await reader.read()
    assert response.startswith(b"HTTP/1.1 200")
    assert b"\r\n\r\n0HTTP/1.1 431" in response
    assert response.count(b"HTTP/1.1") == 2
    assert bounded.app.requests == 1


async def test_pipeline_is_bounded(bounded: Bounded) -> None:
    """The first requests of a long pipeline are served, and then the connection ends."""
    bounded.app.gate.clear()
    reader, writer = await bounded.open((HEAD + b"\r\n") * 1_000)
    with contextlib.closing(writer):
        await eventually_async(lambda: bounded.app.requests == 1)
        bounded.app.gate.set()
        response = await reader.read()
    assert response.count(b"HTTP/1.1 200") == 1 + MAX_PIPELINED
    assert response.count(b"HTTP/1.1 503") == 1
    assert bounded.app.requests == 1 + MAX_PIPELINED


@pytest.mark.parametrize(
    "begin",
    [b"", b"\r\n", b"GET /late HT", b"GET /late HTTP/1.1\r\nX: a"],
    ids=["nothing", "blank line", "request line", "headers"],
)
async def test_slow_head_ends_the_connection(bounded: Bounded, begin: bytes) -> None:
    """A client has a time limit for the head, counted from the connection."""
    reader, writer = await bounded.open(begin)
    with contextlib.closing(writer):
        await bounded.received(len(begin))
        bounded.pass_time(TIMEOUT_S - 1)
        assert bounded.connections
        bounded.pass_time(TIMEOUT_S + 1)
        response = await reader.read()
    assert response.startswith(b"HTTP/1.1 408") if b"late" in begin else response == b""


@pytest.mark.parametrize("begin", [b"\r\n", b"GET /late HT"], ids=["blank line", "request line"])
async def test_slow_later_head_ends_the_connection(bounded: Bounded, begin: bytes) -> None:
    """Bytes after a response stop uvicorn's keep-alive timer, so they start the time limit."""
    reader, writer = await bounded.open(HEAD + b"\r\n")
    with contextlib.closing(writer):
        await reader.readuntil(b"\r\n\r\n0")
        [connection] = bounded.connections
        await eventually_async(lambda: connection.timeout_keep_alive_task is not None)
        writer.write(begin)
        await eventually_async(lambda: connection.timeout_keep_alive_task is None)
        bounded.pass_time(TIMEOUT_S + 1)
        response = await reader.read()
    assert response.startswith(b"HTTP/1.1 408") if begin.strip() else response == b""


async def test_body_after_the_response_has_a_time_limit(bounded: Bounded) -> None:
    """A rejected request whose body goes on and on ends with the time limit."""
    head = b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n"
    reader, writer = await bounded.open(head)
    with contextlib.closing(writer):
        await reader.readuntil(b"early")
        [connection] = bounded.connections
        await eventually_async(lambda: connection.timeout_keep_alive_task is not None)
        writer.write(b"a")
        await eventually_async(lambda: connection.timeout_keep_alive_task is None)
        bounded.pass_time(TIMEOUT_S + 1)
        assert await reader.read() == b""


async def test_slow_app_has_no_time_limit(bounded: Bounded) -> None:
    """The time limit is for heads: neither a slow response nor a head behind it is affected."""
    bounded.app.gate.clear()
    reader, writer = await bounded.open(HEAD + b"\r\n" + b"GET /late HT")
    with contextlib.closing(writer):
        await eventually_async(lambda: bounded.app.requests == 1)
        bounded.pass_time(10 * TIMEOUT_S)
        bounded.app.gate.set()
        assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")


async def test_client_that_ignores_a_refusal_is_disconnected(bounded: Bounded) -> None:
    """After a refusal the rest of the request is dropped, for the same time limit."""
    reader, writer = await bounded.open(HEAD, b"X: " + b"a" * 2 * MAX_BYTES)
    with contextlib.closing(writer):
        assert status_of(await reader.read()) == 431
        writer.write(b"a" * 100_000)
        assert bounded.connections
        bounded.pass_time(TIMEOUT_S + 1)
        await eventually_async(lambda: not bounded.connections)


async def test_connections_are_bounded(bounded: Bounded, log: pytest.LogCaptureFixture) -> None:
    """Further connections are closed with 503, until one of the earlier ones ends."""
    log.set_level(logging.WARNING, "uvicorn.error")
    writers = [(await bounded.open())[1] for _ in range(MAX_CONNECTIONS)]
    await eventually_async(lambda: len(bounded.connections) == MAX_CONNECTIONS)
    assert status_of(await bounded.exchange()) == 503
    assert "See FLEETLIMIT_MAX_CONNECTIONS" in log.text
    writers[0].close()
    await eventually_async(lambda: len(bounded.connections) < MAX_CONNECTIONS)
    assert status_of(await bounded.exchange(closing(HEAD))) == 200
    for each in writers:
        each.close()


TOO_LARGE = f"431: The request head is above {MAX_BYTES:,} bytes. See FLEETLIMIT_MAX_HEAD_BYTES."
TOO_MANY = f"431: The request has more than {MAX_HEADERS} headers. See FLEETLIMIT_MAX_HEADERS."
PIPELINED = f"503: More than {MAX_PIPELINED} requests wait on the connection."
INVALID = "400: Invalid HTTP request received."


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (HEAD + b"X: " + b"a" * MAX_BYTES, TOO_LARGE),
        (closing(HEAD + b"X: " + b"a" * MAX_BYTES + b"\r\n"), TOO_LARGE),
        (closing(HEAD + b"X: a\r\n" * MAX_HEADERS), TOO_MANY),
        (CHUNKED + b"0\r\n" + b"X: a\r\n" * MAX_HEADERS + b"\r\n", TOO_MANY),
        ((HEAD + b"\r\n") * 1_000, PIPELINED),
        (b"FETCH / HTTP/1.1\r\n\r\n", f"{INVALID} (Invalid method encountered)"),
        (b"GET http://[secret HTTP/1.1\r\n\r\n", f"{INVALID} (HttpParserInvalidURLError)"),
    ],
    ids=["head", "complete head", "headers", "trailers", "pipeline", "method", "url"],
)
async def test_refusal_is_one_line_with_its_cause(
    bounded: Bounded, log: pytest.LogCaptureFixture, sent: bytes, line: str
) -> None:
    """A refusal is logged once, and its message has no values: the log samples by message."""
    log.set_level(logging.WARNING, "uvicorn.error")
    for _ in range(2):
        await bounded.exchange(sent)
    assert [(each.msg, each.args) for each in log.records] == [(f"Refused with {line}", ())] * 2


async def test_late_head_is_one_line_with_its_cause(
    bounded: Bounded, log: pytest.LogCaptureFixture
) -> None:
    """A head that is not complete in time is logged like other refusals."""
    log.set_level(logging.WARNING, "uvicorn.error")
    reader, writer = await bounded.open(b"GET /late HT")
    with contextlib.closing(writer):
        await bounded.received(len(b"GET /late HT"))
        bounded.pass_time(TIMEOUT_S + 1)
        await reader.read()
    line = "Refused with 408: The request head was not complete in time. "
    assert log.messages == [f"{line}See FLEETLIMIT_HEAD_TIMEOUT."]


async def test_websocket_is_served(bounded: Bounded) -> None:
    """A handshake passes the bounds, and its connection has no time limit afterwards."""
    handshake = (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX: " + b"a" * 5_000 + b"\r\n\r\n"
    )
    reader, writer = await bounded.open(HEAD + handshake)
    with contextlib.closing(writer):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert bounded.connections == []
