"""ASGI middleware that checks the policies and the route's limits before the app runs.

It buffers nothing: bodies stream through it.
"""

from collections.abc import Awaitable, Iterable
from functools import partial
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleetlimit.web.cors import is_preflight, iter_cors, send_with_cors
from fleetlimit.web.exceptions import exception_handlers, send_rejection
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.ratelimit_headers import EXPOSED_HEADERS, merge_headers
from fleetlimit.web.request_limits import (
    RequestLimits,
    get_request_limits,
    start_request_limits,
)
from fleetlimit.web.responses import RejectionCause
from fleetlimit.web.route_table import RouteInfo, RouteTable, add_app, match_route
from fleetlimit.web.wiring import get_limiter, has_other_limiter, mark_used

WRAPPED_KEY: Final = "fleetlimit_wrapped"
"""Attribute of an app that a middleware wraps without being one of the app's own middlewares."""
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
_EXPOSE_HEADERS: Final = "Access-Control-Expose-Headers"
_LIMIT_HEADERS: Final = frozenset(
    name.lower().encode() for each in EXPOSED_HEADERS.values() for name in each.split(", ")
)
_ORIGIN_HEADER: Final = frozenset({b"origin"})
_SCOPE_TYPES: Final = frozenset({"http", "websocket"})
Wrapped = TypeVar("Wrapped")


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
        if message["type"] in _RESPONSE_START_TYPES and (
            limit_headers := self._request_limits.raw_response_headers()
        ):
            app_headers = message.get("headers", ())
            # Few apps set such headers, and only then is the slower merge needed.
            if _has_header(app_headers, _LIMIT_HEADERS):
                message["headers"] = merge_headers(app_headers, limit_headers)
            else:
                message["headers"] = [*app_headers, *limit_headers]
            if _has_header(self._scope["headers"], _ORIGIN_HEADER):
                self._expose_limit_headers(MutableHeaders(scope=message))
        if (
            self._request_limits.has_leases
            and message["type"] in _RESPONSE_END_TYPES
            and not message.get("more_body")
        ):
            return self._send_last(message)
        return self._send(message)

    async def _send_last(self, message: Message) -> None:
        await self._send(message)
        await self._request_limits.release_leases()

    def _expose_limit_headers(self, headers: MutableHeaders) -> None:
        lists = [
            *headers.getlist(_EXPOSE_HEADERS),
            self._request_limits.http_limiter.exposed_headers,
        ]
        names = dict.fromkeys(name.strip() for one in lists for name in one.split(","))
        headers[_EXPOSE_HEADERS] = ", ".join(names)


def _has_header(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> bool:
    """Return whether one of the headers has one of the names."""
    for name, _ in headers:  # noqa: SIM110 - a generator would double the cost of this loop
        if name in names:
            return True
    return False


class RateLimitMiddleware:
    """Checks every request under the policies that match it, and under its route's own limits.

    The limiter is that of the app that the middleware was added to. A request to an app without
    one raises `ConfigError`.

    Args:
        app: The app behind the middleware.
        http_limiter: Limiter for an app that is not Starlette's; by default the app's own.
        routes: Routes of an app that is not Starlette's; by default the app's own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        http_limiter: HTTPLimiter | None = None,
        routes: RouteTable | None = None,
    ) -> None:
        self.app = app
        if http_limiter is not None:
            mark_used(http_limiter.limiter)
        self._http_limiter = http_limiter
        self._routes = routes
        self._cors = tuple(iter_cors(app))
        self._starlette = _find_in_stack(app, Starlette)
        if self._starlette is not None:
            setattr(self._starlette, WRAPPED_KEY, True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request to the app, or send the rejection."""
        if scope["type"] not in _SCOPE_TYPES or (
            scope.get("method") == "OPTIONS" and self._cors and is_preflight(scope)
        ):
            await self.app(scope, receive, send)
            return
        if "app" not in scope and self._starlette is not None:
            # This middleware wraps the app and runs before it.
            add_app(scope, self._starlette)
        http_limiter = self._http_limiter or get_limiter(scope)
        outer = get_request_limits(scope)
        if outer is not None and outer.http_limiter is http_limiter:
            await self.app(scope, receive, send)
            return
        route = match_route(scope, self._routes)
        if route.cors and scope.get("method") == "OPTIONS" and is_preflight(scope):
            # A CORS middleware of the mount, the mounted app or the route answers it.
            await self.app(scope, receive, send)
            return
        request_limits = start_request_limits(
            scope,
            http_limiter,
            route,
            headers_sent_by_middleware=True,
            routing_key=(scope["path"], scope.get("method"), scope.get("root_path", ""))
            if self._routes is None
            else None,
        )
        dependencies = route.active_rate_limits()
        if route.mounted_app is not None and has_other_limiter(route.mounted_app, http_limiter):
            # The mounted app's own limiter checks them.
            dependencies = ()
        try:
            try:
                rejection = await request_limits.check(scope, dependencies, match_policies=True)
            except Exception as error:  # noqa: BLE001 - it is raised again without a handler
                await self._send_error(error, route, scope, receive, send)
                return
            if rejection is None:
                await self.app(scope, receive, SendWithHeaders(request_limits, scope, send))
            elif (
                not (cors := (*self._cors, *route.cors)) and rejection.cause is RejectionCause.LIMIT
            ):
                await send_rejection(rejection, scope, receive, send)
            else:
                wrapped_send = SendWithHeaders(request_limits, scope, send)
                reject = partial(send_rejection, rejection)
                await send_with_cors(reject, cors, scope, receive, wrapped_send)
        finally:
            if request_limits.has_leases:
                await request_limits.release_leases()

    async def _send_error(
        self, error: Exception, route: RouteInfo, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Handle the error of a cost function as the app handles an error of a dependency.

        An error without a handler is raised again.
        """

        async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
            raise error

        app = route.mounted_app or scope.get("app")
        handling = ExceptionMiddleware(fail, exception_handlers(app))
        await send_with_cors(handling, (*self._cors, *route.cors), scope, receive, send)


def _find_in_stack(app: Any, kind: type[Wrapped]) -> Wrapped | None:
    """Return the first app of a class among an app and the apps that it wraps."""
    while app is not None:
        if isinstance(app, kind):
            return app
        app = getattr(app, "app", None)
    return None
