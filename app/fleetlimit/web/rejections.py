"""Rejections in the app's own format: by a function of the app, or by its exception handlers.

The app's function receives a ready response, with problem details and the limit headers, and
changes it, or returns another one. Whatever goes wrong in the app's code, the client receives the
ready response, and the log has the error.

Headers of the ready response that another response lacks are added to it: `Retry-After`, the limit
headers and `Cache-Control` among them. A header that the function deletes from the ready response
is not added.
"""

import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from anyio import sleep_forever, to_thread
from fastapi.exception_handlers import http_exception_handler
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from fleetlimit.core.decision import Decision
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import (
    await_result,
    is_async,
    require_arguments,
    require_no_generator,
    require_result,
)
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.web.ratelimit_headers import RawHeaders, merge_headers
from fleetlimit.web.responses import MEDIA_TYPE, RejectionCause, RejectionResponse

FAILED: Final = "rejection.failed"
"""Log event of an error in the app's code for rejections."""
TRY_AGAIN_LATER: Final = 1013
"""Close code of the IANA WebSocket registry; a server turns it into 403 before the handshake."""
CLOSE_REASON: Final = "rate limited"
_MAX_REASON_BYTES: Final = 123
"""Longest reason in a close frame (RFC 6455, section 5.5)."""
_WITHOUT_BODY: Final = frozenset({204, 205, 304})
"""Statuses of responses that have no body (RFC 9110, section 6.4.1)."""
_BODY_HEADERS: Final = frozenset({b"content-type", b"content-length"})
"""Headers that belong to a body, and are not added to another one."""


class ProblemResponse(Response):
    """Ready response to a rejected request, which `on_rejected` may change.

    `status_code` and `headers` are those of a Starlette response. A changed `problem` becomes the
    body, and its member `status` follows `status_code`.

    Args:
        rejection: The rejection that every client would receive.
        headers: Its headers, with those of the limits.
    """

    media_type = MEDIA_TYPE

    problem: dict[str, Any]
    """Problem details (RFC 9457), the later body."""
    cause: RejectionCause
    """Cause of the rejection: `limit`, `credential_invalid`, `credential_unverified` or `cost`."""
    close_code: int
    """Code that closes a WebSocket whose server sends no response to a handshake, or that was
    accepted before: 1013, try again later."""
    close_reason: str
    """Reason that closes such a WebSocket: at most 123 bytes."""

    def __init__(self, rejection: RejectionResponse, headers: RawHeaders) -> None:
        self.problem = json.loads(rejection.body)
        self.cause = rejection.cause
        self.close_code = TRY_AGAIN_LATER
        self.close_reason = CLOSE_REASON
        super().__init__(rejection.body, rejection.status)
        self.raw_headers = [*headers]
        self._ready = rejection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if self.status_code in _WITHOUT_BODY:
            self.body = b""
            del self.headers["Content-Type"]
        # A body that the app has set stays, as in any response of Starlette's.
        elif self.body is self._ready.body:
            if self.problem.get("status") == self._ready.status:
                self.problem["status"] = self.status_code
            self.body = json.dumps(self.problem).encode()
        if not isinstance(self.body, bytes | memoryview):
            raise TypeError(
                f"response.body is of type {type(self.body).__name__}: write bytes, change "
                "response.problem, or return JSONResponse(...)"
            )
        if self.status_code in _WITHOUT_BODY:
            del self.headers["Content-Length"]
        else:
            self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


OnRejected = Callable[
    [Any, Decision | None, ProblemResponse],
    Response | Awaitable[Response | None] | None,
]
"""Function of the app for rejections: returns another response, or None for the ready one.

Its first argument is a `Request`, or the `HTTPConnection` of a WebSocket handshake; it may be
annotated with either.
"""


def require_on_rejected(function: Any) -> None:
    """Check that a function, plain or async, can be called for a rejection.

    Raises:
        ConfigError: It cannot; the message says what to write.
    """
    subject = f"on_rejected={function!r}"
    if not callable(function) or isinstance(function, type | Response):
        raise ConfigError(
            f"{subject} is not a function: write `def on_rejected(connection, decision, response)`"
        )
    require_no_generator(function, subject)
    require_arguments(function, 3, subject, "def on_rejected(connection, decision, response)")
    require_result(function, subject, (Response, type(None)), "a Response or None")


def require_truth_value(name: str, value: object) -> None:
    """Check that an argument is a truth value.

    Raises:
        ConfigError: It is not: a text would be true, whatever it says.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not a truth value: write True or False")


@dataclass(frozen=True, slots=True)
class RejectionSender:
    """Sender of rejections in the app's own format.

    Args:
        on_rejected: Function of the app; None without.
        use_exception_handlers: Whether an exception handler of the app for `HTTPException`, for a
            status, or for a class of rejections answers. It takes precedence over `on_rejected`.

    Raises:
        ConfigError: The function cannot be called for a rejection.
    """

    on_rejected: OnRejected | None = None
    use_exception_handlers: bool = False
    is_needed: bool = field(init=False)
    """Whether rejections can differ from the ready responses."""

    def __post_init__(self) -> None:
        if self.on_rejected is not None:
            require_on_rejected(self.on_rejected)
        require_truth_value("use_exception_handlers", self.use_exception_handlers)
        is_needed = self.on_rejected is not None or self.use_exception_handlers
        object.__setattr__(self, "is_needed", is_needed)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected request, and the app's code that answers it.

    Args:
        rejection: The ready response.
        decision: Decision of the limiter; None where the request was rejected without one.
        headers: Headers of the ready response, with those of the limits.
        error: The rejection as an exception.
        apps: Apps whose exception handlers are looked up, the nearest first.
        sender: What the app has for rejections.
        timeout_s: Seconds that an async function may take.
        failure_log: Log of errors in the app's code.
    """

    rejection: RejectionResponse
    decision: Decision | None
    headers: RawHeaders
    error: Exception
    apps: tuple[Any, ...]
    sender: RejectionSender
    timeout_s: float
    failure_log: FailureLog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request, as an ASGI app."""
        await self._answer(Request(scope), scope, receive, send)

    async def deny_handshake(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a WebSocket handshake, as an ASGI app, if the client has not disconnected."""
        message = await receive()
        if message["type"] == "websocket.connect":
            await self.close(WebSocket(scope, _replay(message, receive), send))

    async def close(self, websocket: WebSocket) -> None:
        """Answer a handshake with a response if the server can, or close the connection."""
        scope = websocket.scope
        is_response_possible = (
            "websocket.http.response" in scope.get("extensions", {})
            and websocket.application_state is WebSocketState.CONNECTING
        )
        if is_response_possible:
            # Responses of Starlette's read the method, and wait for a disconnect.
            request = {**scope, "type": "http", "method": "GET"}
            await self._answer(websocket, request, _receive_nothing, _as_denial(websocket.send))
            return
        ready = self._ready()
        response = await self._choose(websocket, ready)
        if websocket.application_state is not WebSocketState.DISCONNECTED:
            closing = response if isinstance(response, ProblemResponse) else ready
            await websocket.close(*self._close_arguments(closing))

    def _ready(self) -> ProblemResponse:
        return ProblemResponse(self.rejection, self.headers)

    async def _answer(self, connection: Any, scope: Scope, receive: Receive, send: Send) -> None:
        ready = self._ready()
        response = await self._choose(connection, ready)
        if response is None:
            # An exception handler has closed the WebSocket itself.
            return
        complete = response if isinstance(response, ProblemResponse) else ready
        completing = _CompletingSend(send, complete)
        try:
            await response(scope, receive, completing)
        except Exception as error:
            if completing.has_started:
                raise
            self.failure_log.write(FAILED, error)
            await self._ready()(scope, receive, send)

    async def _choose(self, connection: Any, ready: ProblemResponse) -> Response | None:
        """Return the response; None if an exception handler has answered by itself."""
        try:
            if self.sender.use_exception_handlers:
                handler = find_handler(self.apps, self.error)
                if handler is not None:
                    return await self._handle(handler, connection)
            if self.sender.on_rejected is not None:
                is_http = connection.scope["type"] == "http"
                given = connection if is_http else HTTPConnection(connection.scope)
                returned = self.sender.on_rejected(given, self.decision, ready)
                if inspect.isawaitable(returned):
                    returned = await await_result(returned, "on_rejected function", self.timeout_s)
                return _require_response(returned, "on_rejected") or ready
        except Exception as error:  # noqa: BLE001 - the app's code must not replace the rejection
            self.failure_log.write(FAILED, error)
            return self._ready()
        return ready

    async def _handle(self, handler: Any, connection: Any) -> Response | None:
        """Call an exception handler as Starlette does."""
        call = (
            handler(connection, self.error)
            if is_async(handler)
            else to_thread.run_sync(
                partial(handler, connection, self.error), abandon_on_cancel=True
            )
        )
        returned = await await_result(call, "exception handler", self.timeout_s)
        if inspect.isawaitable(returned):
            # A plain function around an async one.
            returned = await await_result(returned, "exception handler", self.timeout_s)
        response = _require_response(returned, "the exception handler")
        if response is None and not (
            isinstance(connection, WebSocket)
            and connection.application_state is not WebSocketState.CONNECTING
        ):
            raise TypeError("the exception handler returned None: return a Response")
        return response

    def _close_arguments(self, ready: ProblemResponse) -> tuple[int, str]:
        code, reason = ready.close_code, ready.close_reason
        try:
            _require_close(code, reason)
        except ValueError as error:
            self.failure_log.write(FAILED, error)
            return TRY_AGAIN_LATER, CLOSE_REASON
        return code, reason


class _CompletingSend:
    """Wrapper of `send` that adds the headers of the ready response that another one lacks."""

    __slots__ = ("_ready", "_send", "has_started")

    def __init__(self, send: Send, ready: ProblemResponse) -> None:
        self._send = send
        self._ready = ready
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not 200 <= message["status"] <= 599:  # noqa: PLR2004 - final statuses of HTTP
                raise ValueError(f"{message['status']} is not a status: write one from 200 to 599")
            headers = [*message.get("headers", ())]
            names = {name.lower() for name, _ in headers} | _BODY_HEADERS
            headers += [each for each in self._ready.raw_headers if each[0] not in names]
            message = {**message, "headers": headers}
            self.has_started = True
        await self._send(message)


def find_handler(apps: tuple[Any, ...], error: Exception) -> Any:
    """Return the exception handler of an app for a rejection, as Starlette selects it; or None.

    FastAPI's own handler for `HTTPException` is not one of the app.
    """
    for app in apps:
        handlers = dict(getattr(app, "exception_handlers", {}))
        for key in (getattr(error, "status_code", None), *type(error).__mro__):
            if key is Exception:
                break
            handler = handlers.get(key)
            if handler is not None and handler is not http_exception_handler:
                return handler
    return None


def expose_headers(headers: MutableHeaders, names: str) -> None:
    """Add names to `Access-Control-Expose-Headers`."""
    lists = [*headers.getlist("Access-Control-Expose-Headers"), names]
    every = dict.fromkeys(name.strip() for one in lists for name in one.split(","))
    headers["Access-Control-Expose-Headers"] = ", ".join(every)


def ready_headers(rejection: RejectionResponse, limit_headers: RawHeaders) -> RawHeaders:
    """Return the headers of a rejection, with those of the limits."""
    return merge_headers(rejection.raw_headers, limit_headers)


def _require_response(returned: object, source: str) -> Response | None:
    if returned is None or isinstance(returned, Response):
        return returned
    raise TypeError(f"{source} returned {type(returned).__name__}: return a Response or None")


def _require_close(code: object, reason: object) -> None:
    """Check the arguments of a close frame.

    Raises:
        ValueError: A server would not send them.
    """
    # RFC 6455, section 7.4: an endpoint sends no 1005, 1006 and 1015.
    known = {1000, 1001, 1002, 1003, *range(1007, 1015)}
    if not isinstance(code, int) or not (code in known or 3_000 <= code <= 4_999):  # noqa: PLR2004
        raise ValueError(f"{code!r} is not a close code: write 1013, or one from 3000 to 4999")
    if not isinstance(reason, str) or len(reason.encode()) > _MAX_REASON_BYTES:
        raise ValueError(f"a close reason has at most {_MAX_REASON_BYTES} bytes")


def _as_denial(send: Send) -> Send:
    """Return a `send` for the response to a handshake."""

    async def wrapped(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return wrapped


async def _receive_nothing() -> Message:
    """Wait for a message of a client that sends none."""
    await sleep_forever()
    raise AssertionError  # pragma: no cover - the line above ends by a cancellation only


def _replay(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that begins with a message that was received before."""
    messages = [message]

    async def wrapped() -> Message:
        return messages.pop() if messages else await receive()

    return wrapped
