"""Limit headers on the response of the app, which the middleware adds while it is sent."""

from collections.abc import Awaitable, Iterable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope, Send

from fleetlimit.web.ratelimit_headers import merge_headers
from fleetlimit.web.rejections import expose_headers
from fleetlimit.web.request_limits import RequestLimits
from fleetlimit.web.settlement import Settlement

_RESPONSE_START_TYPES: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
_RESPONSE_END_TYPES: Final = frozenset(
    {
        "http.response.body",
        "http.response.pathsend",
        "websocket.close",
        "websocket.http.response.body",
    }
)
"""Messages that end a response, unless they have `more_body`."""
ORIGIN_HEADER: Final = frozenset({b"origin"})


class SendWithHeaders:
    """Wrapper of a server's `send` that adds the limit headers to the response.

    After the last message it releases the concurrency units, which would otherwise be held during
    the app's background tasks.

    Args:
        request_limits: Decisions about the request.
        scope: ASGI scope of the request.
        send: The server's `send`.
    """

    __slots__ = ("_request_limits", "_scope", "_send")

    def __init__(self, request_limits: RequestLimits, scope: Scope, send: Send) -> None:
        self._request_limits = request_limits
        self._scope = scope
        self._send = send

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send a message."""
        settlement = self._request_limits.settlement
        if settlement is not None and not settlement.is_up_to_date:
            return self._settle_and_send(settlement, message)
        if message["type"] in _RESPONSE_START_TYPES and (
            limit_headers := self._request_limits.raw_response_headers()
        ):
            app_headers = message.get("headers", ())
            # Few apps set such headers, and only then is the slower merge needed.
            if has_header(app_headers, self._request_limits.http_limiter.header_names):
                message["headers"] = merge_headers(app_headers, limit_headers)
            else:
                message["headers"] = [*app_headers, *limit_headers]
            if has_header(self._scope["headers"], ORIGIN_HEADER):
                exposed = self._request_limits.http_limiter.exposed_headers
                expose_headers(MutableHeaders(scope=message), exposed)
        if (
            self._request_limits.has_leases
            and message["type"] in _RESPONSE_END_TYPES
            and not message.get("more_body")
        ):
            return self._send_last(message)
        return self._send(message)

    async def _settle_and_send(self, settlement: Settlement, message: Message) -> None:
        # Before the headers are written, which state the units that are left.
        await settlement.before_send(message)
        # A flag, because a further call would take time in every message of every response.
        settlement.is_up_to_date = True
        sending = self(message)
        settlement.is_up_to_date = False
        await sending

    async def _send_last(self, message: Message) -> None:
        await self._send(message)
        await self._request_limits.release_leases()


def has_header(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> bool:
    """Return whether one of the headers has one of the names."""
    for name, _ in headers:  # noqa: SIM110 - a generator would double the cost of this loop
        if name in names:
            return True
    return False
