"""The limits of the policy file, before anything of the app runs: plain ASGI, nothing buffered."""

import copy
from collections.abc import Awaitable, Iterable
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleetlimit.web.exceptions import send_rejection
from fleetlimit.web.http_limiter import HTTPLimiter, get_limiter
from fleetlimit.web.ratelimit_headers import EXPOSED_HEADERS, merge_headers
from fleetlimit.web.request_limits import RequestLimits, get_request_limits, start_request_limits
from fleetlimit.web.responses import RejectionResponse
from fleetlimit.web.route_table import RouteTable, match_route

_RESPONSE_START_TYPES: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
_EXPOSE_HEADERS: Final = "Access-Control-Expose-Headers"
_LIMIT_HEADERS: Final = frozenset(
    name.lower().encode() for each in EXPOSED_HEADERS.values() for name in each.split(", ")
)
_ORIGIN_HEADER: Final = frozenset({b"origin"})


class SendWithHeaders:
    """Stands in place of a server's `send`.

    Args:
        request_limits: The request, and what was decided of it.
        scope: The request, as the server describes it.
        send: The server's.
    """

    __slots__ = ("_request_limits", "_scope", "_send")

    def __init__(self, request_limits: RequestLimits, scope: Scope, send: Send) -> None:
        self._request_limits = request_limits
        self._scope = scope
        self._send = send

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send a message on."""
        if message["type"] in _RESPONSE_START_TYPES and (
            limit_headers := self._request_limits.response_headers()
        ):
            app_headers = message.get("headers", ())
            # Few apps have any of their own, and then no table of names is made.
            clash = _has_header(app_headers, _LIMIT_HEADERS)
            message["headers"] = (
                merge_headers(app_headers, limit_headers)
                if clash
                else [*app_headers, *limit_headers]
            )
            if _has_header(self._scope["headers"], _ORIGIN_HEADER):
                self._expose_limit_headers(MutableHeaders(scope=message))
        return self._send(message)

    def _expose_limit_headers(self, headers: MutableHeaders) -> None:
        lists = [
            *headers.getlist(_EXPOSE_HEADERS),
            self._request_limits.http_limiter.exposed_headers,
        ]
        names = dict.fromkeys(name.strip() for one in lists for name in one.split(","))
        headers[_EXPOSE_HEADERS] = ", ".join(names)


def _has_header(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> bool:
    """Tell whether one of the fields has one of the names; they are few, so no table is made."""
    for name, _ in headers:  # noqa: SIM110 - to make a generator takes as long as all else here
        if name in names:
            return True
    return False


_SCOPE_TYPES = frozenset({"http", "websocket"})
Kind = TypeVar("Kind")


class RateLimitMiddleware:
    """Decides every request by the policies that match it, and by the route's own limits.

    Args:
        app: The app behind it.
        http_limiter: Decides; the app's own when left out.
        routes: The routes of an app that is not Starlette's; the app's own when left out.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        http_limiter: HTTPLimiter | None = None,
        routes: RouteTable | None = None,
    ) -> None:
        self.app = app
        self._http_limiter = http_limiter
        self._routes = routes
        self._cors = _find_in_stack(app, CORSMiddleware)
        self._starlette = _find_in_stack(app, Starlette)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or refuse it."""
        scope_type = scope["type"]
        if scope_type not in _SCOPE_TYPES or (
            scope.get("method") == "OPTIONS" and _is_preflight(scope)
        ):
            await self.app(scope, receive, send)
            return
        if self._starlette is not None:
            # Wrapped around the whole app by hand, it stands where no app is named yet.
            scope.setdefault("app", self._starlette)
        http_limiter = self._http_limiter or get_limiter(scope)
        outer = get_request_limits(scope)
        if outer is not None and outer.http_limiter is http_limiter:
            await self.app(scope, receive, send)
            return
        route = match_route(scope, self._routes)
        request_limits = start_request_limits(
            scope, http_limiter, route, headers_sent_by_middleware=True
        )
        try:
            rejection = await request_limits.check(scope, route.rate_limits, match_policies=True)
            if rejection is None:
                await self.app(scope, receive, SendWithHeaders(request_limits, scope, send))
            elif self._cors is None and rejection.includes_limit_headers:
                await send_rejection(rejection, scope, receive, send)
            else:
                await self._send_rejection_with_cors(
                    rejection, scope, receive, SendWithHeaders(request_limits, scope, send)
                )
        finally:
            if request_limits.has_leases:
                await request_limits.release_leases()

    async def _send_rejection_with_cors(
        self, rejection: RejectionResponse, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send_rejection(rejection, scope, receive, send)

        if self._cors is None:
            await answer(scope, receive, send)
            return
        # CORS is handled further in, where a refused request never comes: without its headers a
        # browser's script would see a network error in place of the 429.
        cors = copy.copy(self._cors)
        cors.app = answer
        await cors(scope, receive, send)


def _is_preflight(scope: Scope) -> bool:
    """Tell of OPTIONS whether a browser asks before it asks (Fetch, CORS-preflight): it is free."""
    headers = Headers(scope=scope)
    return "origin" in headers and "access-control-request-method" in headers


def _find_in_stack(app: Any, kind: type[Kind]) -> Kind | None:
    """Return the first of a kind among an app and what it is wrapped around."""
    while app is not None:
        if isinstance(app, kind):
            return app
        app = getattr(app, "app", None)
    return None
