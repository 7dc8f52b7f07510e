"""Rejection of a request: as a response, as the answer to a WebSocket handshake, as an exception.

RequestRejected            an HTTPException; `except` or a handler for it covers all
├── RateLimitExceeded      429, or 503 where the store is unavailable and a policy denies
├── InvalidCredentials     401
├── CredentialsUnverified  503 where the issuer's keys or the resolver are unavailable
└── CostTooLarge           413
"""

from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketState

from fleetlimit.core.decision import Decision
from fleetlimit.web.responses import RejectionCause, RejectionResponse

TRY_AGAIN_LATER = 1013
"""Close code of the IANA WebSocket registry; a server turns it into 403 before the handshake."""
_UNEXPECTED: Final = frozenset({HTTPStatus.INTERNAL_SERVER_ERROR, Exception})
"""Keys of the exception handlers for unexpected errors."""


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
    return isinstance(error, HTTPException) or any(kind in handlers for kind in type(error).__mro__)


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
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "rate limited"})


class RequestRejected(HTTPException):
    """A request that a limit turned away; the app answers it with problem details.

    An exception handler of the app for the class, a subclass or the status replaces that answer.

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
        super().__init__(response.status, headers=headers)
        self.response = response
        self.decision = decision

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


_CLASS_BY_CAUSE = {
    RejectionCause.LIMIT: RateLimitExceeded,
    RejectionCause.CREDENTIAL_INVALID: InvalidCredentials,
    RejectionCause.CREDENTIAL_UNVERIFIED: CredentialsUnverified,
    RejectionCause.COST: CostTooLarge,
}


def make_exception(
    response: RejectionResponse, decision: Decision | None, connection: HTTPConnection
) -> RequestRejected:
    """Return the exception for a rejection, and register its handler with the app.

    Starlette puts the app's exception handlers into the scope, so users register nothing.
    """
    handlers = connection.scope.get("starlette.exception_handlers")
    if handlers is not None:
        handlers[0].setdefault(RequestRejected, _handle_rejection)
    return _CLASS_BY_CAUSE[response.cause](response, decision)


async def _handle_rejection(connection: Any, error: RequestRejected) -> Response | None:
    response = error.response
    scope = connection.scope
    if scope["type"] == "http":
        return Response(response.body, response.status, dict(response.headers))
    can_send_response = "websocket.http.response" in scope.get("extensions", {})
    # An earlier dependency of the route may have accepted the connection.
    if can_send_response and connection.application_state is WebSocketState.CONNECTING:
        await connection.send_denial_response(
            Response(response.body, response.status, dict(response.headers))
        )
    else:
        await connection.close(TRY_AGAIN_LATER, "rate limited")
    return None
