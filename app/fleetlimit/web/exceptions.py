"""Rejection of a request: as a response, as the answer to a WebSocket handshake, as an exception.

RequestRejected            an HTTPException; `except` or a handler for it covers all
├── RateLimitExceeded      429, or 503 where the store is unavailable and a policy denies
├── InvalidCredentials     401
├── CredentialsUnverified  503 where the issuer's keys or the resolver are unavailable
└── CostTooLarge           413
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import HTTPException
from fastapi.exception_handlers import http_exception_handler
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketState

from fleetlimit.core.decision import Decision
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.web.ratelimit_headers import RawHeaders
from fleetlimit.web.rejections import (
    CLOSE_REASON,
    TRY_AGAIN_LATER,
    Rejected,
    RejectionSender,
    ready_headers,
)
from fleetlimit.web.responses import RejectionCause, RejectionResponse

_UNEXPECTED: Final = frozenset({HTTPStatus.INTERNAL_SERVER_ERROR, Exception})
"""Keys of the exception handlers for unexpected errors."""
_REJECTION_STATUSES: Final = frozenset({401, 413, 429, 503})


def exception_handlers(app: Any) -> dict[Any, Any]:
    """Return the exception handlers of an app, except those for unexpected errors."""
    return {
        kind: handler
        for kind, handler in getattr(app, "exception_handlers", {}).items()
        if kind not in _UNEXPECTED
    }


def unexpected_error_handler(app: Starlette) -> Any:
    """Return an app's handler for unexpected errors, the last one as in Starlette; or None."""
    found = [handler for kind, handler in app.exception_handlers.items() if kind in _UNEXPECTED]
    return found[-1] if found else None


def has_handler(app: Any, error: Exception) -> bool:
    """Return whether an app answers an exception by itself."""
    handlers = exception_handlers(app)
    return isinstance(error, StarletteHTTPException) or any(
        kind in handlers for kind in type(error).__mro__
    )


async def send_rejection(
    response: RejectionResponse, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a rejection as the only response to a request."""
    # Copy the headers: outer middleware may modify the message, and requests share the response.
    status, headers, body = response.status, [*response.raw_headers], response.body
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": CLOSE_REASON})


class RequestRejected(HTTPException):
    """A request that a limit turned away; the app answers it with problem details.

    An exception handler of the app for the class, a subclass or the status replaces that answer.
    It is FastAPI's `HTTPException`, whose handler is used with `use_exception_handlers=True`; its
    `detail` is that of the problem details.

    Args:
        response: Response that is sent unless the app has a handler.
        decision: Decision of the limiter; None where the request was rejected without one.
    """

    def __init__(self, response: RejectionResponse, decision: Decision | None = None) -> None:
        headers = {
            name: value
            for name, value in response.headers
            if name not in {"Content-Type", "Content-Length"}
        }
        super().__init__(response.status, response.detail, headers)
        self.response = response
        self.decision = decision
        # What answers in place of the response; None where nothing does.
        self.answer: Rejected | None = None

    @property
    def retry_after(self) -> int | None:
        """Seconds after which a retry may be admitted; None where waiting does not help."""
        seconds = (self.headers or {}).get("Retry-After")
        return int(seconds) if seconds else None


class RateLimitExceeded(RequestRejected):
    """A limit is spent (429), or cannot be checked and its policy denies (503)."""


class InvalidCredentials(RequestRejected):
    """The request's credential did not verify (401)."""


class CredentialsUnverified(RequestRejected):
    """The request's credential cannot be verified at the moment (503), and may be valid."""


class CostTooLarge(RequestRejected):
    """The request's cost is above what a limit can ever admit (413)."""


def handles_rejections(app: Any) -> bool:
    """Return whether an app has an exception handler that can answer a rejection."""
    for key, handler in exception_handlers(app).items():
        if handler is http_exception_handler:
            continue
        if isinstance(key, int):
            if key in _REJECTION_STATUSES:
                return True
        elif issubclass(RequestRejected, key) or issubclass(key, RequestRejected):
            return True
    return False


_CLASS_BY_CAUSE = {
    RejectionCause.LIMIT: RateLimitExceeded,
    RejectionCause.CREDENTIAL_INVALID: InvalidCredentials,
    RejectionCause.CREDENTIAL_UNVERIFIED: CredentialsUnverified,
    RejectionCause.COST: CostTooLarge,
}


@dataclass(frozen=True, slots=True)
class RejectionContext:
    """What the answer to a rejected request is made of, beside the rejection.

    Args:
        sender: What the app has for rejections.
        timeout_s: Seconds that an async function of the app may take.
        failure_log: Log of errors in the app's code.
        apps: Apps whose exception handlers are looked up, the nearest first.
        limit_headers: Headers of the limits that the rejection does not have itself.
    """

    sender: RejectionSender
    timeout_s: float
    failure_log: FailureLog
    apps: tuple[Any, ...]
    limit_headers: RawHeaders

    def reject(
        self, response: RejectionResponse, decision: Decision | None
    ) -> tuple["RequestRejected", Rejected]:
        """Return the exception for a rejection, and its answer."""
        error = _CLASS_BY_CAUSE[response.cause](response, decision)
        error.answer = Rejected(
            response,
            decision,
            ready_headers(response, self.limit_headers),
            error,
            self.apps,
            self.sender,
            self.timeout_s,
            self.failure_log,
        )
        return error, error.answer


def make_exception(
    response: RejectionResponse,
    decision: Decision | None,
    connection: HTTPConnection | None = None,
    context: RejectionContext | None = None,
) -> RequestRejected:
    """Return the exception for a rejection, and register its handler with the app.

    Starlette puts the app's exception handlers into the scope, so users register nothing.

    Args:
        response: The ready response.
        decision: Decision of the limiter, if there is one.
        connection: The rejected request or handshake; None for a check that no request has made.
        context: What the app has for rejections; None for the ready response.
    """
    handlers = connection.scope.get("starlette.exception_handlers") if connection else None
    if handlers is not None:
        handlers[0].setdefault(RequestRejected, _handle_rejection)
    if context is not None:
        return context.reject(response, decision)[0]
    return _CLASS_BY_CAUSE[response.cause](response, decision)


async def _handle_rejection(connection: Any, error: RequestRejected) -> ASGIApp | None:
    response = error.response
    scope = connection.scope
    if scope["type"] == "http":
        if error.answer is not None:
            return error.answer
        return Response(response.body, response.status, dict(response.headers))
    if error.answer is not None:
        await error.answer.close(connection)
        return None
    can_send_response = "websocket.http.response" in scope.get("extensions", {})
    # An earlier dependency of the route may have accepted the connection.
    if can_send_response and connection.application_state is WebSocketState.CONNECTING:
        await connection.send_denial_response(
            Response(response.body, response.status, dict(response.headers))
        )
    else:
        await connection.close(TRY_AGAIN_LATER, CLOSE_REASON)
    return None
