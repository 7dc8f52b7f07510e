"""Sending a refusal: as a response, as the answer to a WebSocket handshake, or as an exception."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketState

from fleetlimit.web.responses import RejectionResponse

TRY_AGAIN_LATER = 1013
"""Close code of the IANA WebSocket registry; before the handshake a server makes it a 403."""


async def send_rejection(
    response: RejectionResponse, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer a request that has not been answered yet."""
    # What is sent is the receiver's to change, and the refusal is others' too.
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
    """Raised by the dependency; answered with problem details.

    An app that registers a handler for it, or for its status, answers in its own way.

    Args:
        response: What to answer.
    """

    def __init__(self, response: RejectionResponse) -> None:
        headers = {
            name: value
            for name, value in response.headers
            if name not in {"Content-Type", "Content-Length"}
        }
        super().__init__(response.status, headers=headers)
        self.response = response


def make_exception(response: RejectionResponse, connection: HTTPConnection) -> RequestRejected:
    """Return the exception to raise, and see that the app knows how to answer it.

    Starlette keeps the handlers of the request's app in its scope; no set-up by the user is needed.
    """
    handlers = connection.scope.get("starlette.exception_handlers")
    if handlers is not None:
        handlers[0].setdefault(RequestRejected, _handle_rejection)
    return RequestRejected(response)


async def _handle_rejection(connection: Any, error: RequestRejected) -> Response | None:
    response = error.response
    scope = connection.scope
    if scope["type"] == "http":
        return Response(response.body, response.status, dict(response.headers))
    can_send_response = "websocket.http.response" in scope.get("extensions", {})
    # A dependency before this one may have accepted already.
    if can_send_response and connection.application_state is WebSocketState.CONNECTING:
        await connection.send_denial_response(
            Response(response.body, response.status, dict(response.headers))
        )
    else:
        await connection.close(TRY_AGAIN_LATER, "rate limited")
    return None
