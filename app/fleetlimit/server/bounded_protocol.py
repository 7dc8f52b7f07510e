"""HTTP/1.1 protocol of uvicorn with bounds on request heads, pipelines and connections.

uvicorn's httptools protocol buffers a header line of any length, accepts any number of headers, and
waits for the end of a head without a time limit. All of this happens before the app, and before the
limiter, sees the request.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_PIPELINED: Final = 16
"""Requests that wait on one connection for earlier responses. Each has a scope of its own."""
_PIECE_BYTES: Final = 16_384
"""Bytes that are parsed before the bounds are checked again. uvloop reads 256 KiB at a time, which
can be 65,000 headers of four bytes."""
_BYTES_PER_HEADER: Final = len(b": \r\n")


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """Bounds on the requests of one port.

    Args:
        max_head_bytes: Bytes of a request line with its headers; also of the trailers and of a
            chunk header of a chunked body.
        max_headers: Headers of a request, trailers included.
        head_timeout_s: Seconds from the connection, or from the first byte of a later request, to
            the end of the head.
        max_connections: Open connections, idle ones and WebSockets included.
    """

    max_head_bytes: int
    max_headers: int
    head_timeout_s: float
    max_connections: int


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Error response that ends a connection.

    Args:
        status: HTTP status.
        message: Body of the response, and part of the log line.
        hint: Cause or setting of the violated bound, for the log line; empty without one.
    """

    status: int
    message: str
    hint: str = ""


class _HeadOutOfBoundsError(Exception):
    """Ends the parsing of a request."""


class _Parser(httptools.HttpRequestParser):
    """Parser that passes its errors to a function.

    uvicorn would log a line without the cause, besides the line of the refusal.

    Args:
        protocol: Protocol that receives the parts of the requests.
        on_error: Function that ends the connection; the rest of its bytes is not parsed.
    """

    def __init__(
        self, protocol: object, on_error: Callable[[httptools.HttpParserError], None]
    ) -> None:
        super().__init__(protocol)
        self._on_error = on_error
        # As in uvicorn: a second request in a pipeline after the last one is not an error.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: Any) -> None:
        """Parse bytes."""
        try:
            super().feed_data(data)
        except httptools.HttpParserError as error:
            self._on_error(error)


class BoundedProtocol(HttpToolsProtocol):
    """Protocol of one connection.

    Args:
        bounds: Bounds of the port.
        given: Arguments that uvicorn gives to its protocols.
    """

    def __init__(self, *, bounds: RequestBounds, **given: Any) -> None:
        super().__init__(**given)
        self.parser = _Parser(self, self._on_parser_error)
        self._bounds = bounds
        # Bytes received since the end of the last head, and since the last byte of a body.
        self._unparsed_bytes = 0
        # Event-loop time at which the server began to wait for the rest of a head; None while a
        # request is processed, and while uvicorn's keep-alive timer runs.
        self._waiting_since: float | None = None
        # Refusal of the head that is being parsed.
        self._refusal: _Refusal | None = None
        self._refused = False

    def connection_made(self, transport: Any) -> None:
        """Register the connection, or close it if there are too many."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        if len(self.connections) > self._bounds.max_connections:
            message = "The server has too many connections."
            self._refuse(_Refusal(503, message, "See FLEETLIMIT_MAX_CONNECTIONS."))
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client, up to the first violated bound."""
        for start in range(0, len(data), _PIECE_BYTES):
            if self._refused:
                # The rest of a refused request is read and dropped: closing the socket over unread
                # bytes would reset the connection, and the client would lose the response.
                return
            if start and (self.transport.is_closing() or self.transport.get_protocol() is not self):
                # The connection ends, or a WebSocket protocol has taken over.
                return
            piece = data if len(data) <= _PIECE_BYTES else data[start : start + _PIECE_BYTES]
            self._unparsed_bytes += len(piece)
            super().data_received(piece)
            if self._unparsed_bytes > self._bounds.max_head_bytes:
                self._refuse(self._head_too_large())
            elif self.headers is not None and len(self.headers) > self._bounds.max_headers:
                self._refuse(self._too_many_headers())
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and not cycle.response_complete:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Start the request if its head is within the bounds."""
        bounds = self._bounds
        if len(self.headers) > bounds.max_headers:
            self._refusal = self._too_many_headers()
        elif (
            # Counted only if it can be too large. The counter lacks up to a piece of a head that
            # began behind another request.
            self._unparsed_bytes > bounds.max_head_bytes - _PIECE_BYTES
            and self._head_bytes() > bounds.max_head_bytes
        ):
            self._refusal = self._head_too_large()
        elif len(self.pipeline) >= MAX_PIPELINED:
            message = f"More than {MAX_PIPELINED} requests wait on the connection."
            self._refusal = _Refusal(503, message)
        else:
            self._unparsed_bytes = 0
            super().on_headers_complete()
            # uvicorn would add the trailers to the headers that the app has: a client could write a
            # forwarding header behind a proxy that checks heads alone (RFC 9110, section 6.5.1).
            self.headers = self.headers.copy()
            return
        raise _HeadOutOfBoundsError

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body to the app."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body if its trailers are within the bounds."""
        if len(self.headers) > self._bounds.max_headers:
            self._refusal = self._too_many_headers()
            raise _HeadOutOfBoundsError
        super().on_message_complete()

    def _on_parser_error(self, error: httptools.HttpParserError) -> None:
        # The parser's texts are constants. An error of a callback, such as that of the URL, may
        # have bytes of the client in its text.
        reason = str(error) if error.__context__ is None else type(error.__context__).__name__
        invalid = _Refusal(400, "Invalid HTTP request received.", f"({reason})")
        self._refuse(self._refusal or invalid)

    def close_if_late(self, now: float) -> None:
        """Close the connection if the client did not complete a head in time.

        Args:
            now: Event-loop time in seconds.
        """
        since, cycle = self._waiting_since, self.cycle
        if since is None or now - since <= self._bounds.head_timeout_s:
            return
        if cycle is not None and not (cycle.response_complete or cycle.disconnected):
            # A response is in flight, and part of the next head waits behind it.
            return
        if self.scope is not None and (cycle is None or cycle.scope is not self.scope):
            message = "The request head was not complete in time."
            self._refuse(_Refusal(408, message, "See FLEETLIMIT_HEAD_TIMEOUT."))
        self.transport.close()

    def _head_bytes(self) -> int:
        headers = sum(len(name) + len(value) + _BYTES_PER_HEADER for name, value in self.headers)
        return len(self.url) + headers

    def _head_too_large(self) -> _Refusal:
        message = f"The request head is above {self._bounds.max_head_bytes:,} bytes."
        return _Refusal(431, message, "See FLEETLIMIT_MAX_HEAD_BYTES.")

    def _too_many_headers(self) -> _Refusal:
        message = f"The request has more than {self._bounds.max_headers:,} headers."
        return _Refusal(431, message, "See FLEETLIMIT_MAX_HEADERS.")

    def _refuse(self, refusal: _Refusal) -> None:
        """Read no further requests; send an error response, after the responses in flight."""
        if self._refused:
            return
        self._refused = True
        # One text without arguments, because uvicorn's log is sampled by message.
        line = f"Refused with {refusal.status}: {refusal.message} {refusal.hint}".rstrip()
        self.logger.warning(line)
        cycle = self.cycle
        # Whether the bytes belong to the request of the last response, or follow it directly.
        is_late = cycle is not None and cycle.scope is self.scope
        if cycle is None or cycle.response_complete:
            # A second response to one request would be taken for that to the next one.
            self._end(None if is_late else refusal)
        elif is_late and cycle.more_body:
            # The body of the request that the app is processing cannot be parsed further.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
            else:
                self._end(refusal)
        else:
            # The refusal must not break into an earlier response.
            cycle.on_response = partial(self._end_after_response, None if is_late else refusal)

    def _end_after_response(self, refusal: _Refusal | None) -> None:
        self.on_response_complete()
        if not self.transport.is_closing():
            self._end(refusal)

    def _end(self, refusal: _Refusal | None) -> None:
        """Send an error response if there is one, and nothing after it."""
        # The client has this time to read the response.
        self._waiting_since = self.loop.time()
        if refusal is not None:
            self.transport.write(self._error_response(refusal.status, refusal.message.encode()))
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _error_response(self, status: int, body: bytes) -> bytes:
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return STATUS_LINE[status] + lines + b"\r\n" + body
