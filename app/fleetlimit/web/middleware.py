"""ASGI middleware that checks the policies and the route's limits before the app runs.

It buffers nothing: bodies stream through it.
"""

import sys
from collections.abc import Awaitable
from functools import cached_property, partial
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleetlimit.call_advice import MIDDLEWARE_NAMES, advised
from fleetlimit.errors import ConfigError
from fleetlimit.web.app_limiter import has_other_limiter
from fleetlimit.web.app_routes import add_app, match_route
from fleetlimit.web.cors import answers_preflight, iter_cors, send_with_cors
from fleetlimit.web.exceptions import (
    exception_handlers,
    send_rejection,
    unexpected_error_handler,
)
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.policy_routes import PolicyRouteTable
from fleetlimit.web.rejections import (
    OnRejected,
    RejectionSender,
    expose_headers,
)
from fleetlimit.web.request_limits import (
    REJECTION_SENDER_KEY,
    RequestLimits,
    get_request_limits,
    start_request_limits,
)
from fleetlimit.web.response_headers import ORIGIN_HEADER, SendWithHeaders, has_header
from fleetlimit.web.responses import RejectionCause, RejectionResponse
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_table import RouteTable
from fleetlimit.web.settlement import Settlement
from fleetlimit.web.unused_limiters import mark_used
from fleetlimit.web.wiring import get_limiter

WRAPPED_KEY: Final = "fleetlimit_wrapped"
"""Attribute of an app that a middleware wraps without being one of the app's own middlewares."""
_SCOPE_TYPES: Final = frozenset({"http", "websocket"})
Wrapped = TypeVar("Wrapped")


class RateLimitMiddleware:
    """Checks every request under the policies that match it, and under its route's own limits.

    The limiter is that of the app that the middleware was added to. A request to an app without
    one raises `ConfigError`.

    Args:
        app: The app behind the middleware.
        http_limiter: Limiter for an app that is not Starlette's; by default the app's own.
        routes: Routes of an app that is not Starlette's; by default those that the policies name.
        on_rejected: Function of the connection, the decision (None without one) and the ready
            `ProblemResponse`, plain or async. It changes that response, or returns another one.
            By default that of the app's `Fleetlimit`.
        use_exception_handlers: Whether the app's exception handlers for `HTTPException`, for a
            status or for `RateLimitExceeded` answer rejections. By default as in `Fleetlimit`.

    Raises:
        ConfigError: The function cannot be called for a rejection; the message says what to write.
    """

    @advised("app.add_middleware(RateLimitMiddleware), without calling it", MIDDLEWARE_NAMES)
    def __init__(
        self,
        app: ASGIApp,
        *,
        http_limiter: HTTPLimiter | None = None,
        routes: RouteTable | None = None,
        on_rejected: OnRejected | None = None,
        use_exception_handlers: bool | None = None,
    ) -> None:
        if not callable(app):
            raise ConfigError(
                f"{app!r} is no app: write app.add_middleware(RateLimitMiddleware), or "
                "RateLimitMiddleware(app)"
            )
        self.app = app
        if http_limiter is not None:
            if not isinstance(http_limiter, HTTPLimiter):
                raise ConfigError(
                    f"http_limiter={http_limiter!r} is not one: write "
                    "http_limiter=fleetlimit.http_limiter"
                )
            mark_used(http_limiter.limiter)
        self._http_limiter = http_limiter
        self._routes = routes
        # Checks the arguments.
        flag = False if use_exception_handlers is None else use_exception_handlers
        RejectionSender(on_rejected, use_exception_handlers=flag)
        self._on_rejected = on_rejected
        self._use_exception_handlers = use_exception_handlers
        self._completed: tuple[RejectionSender, RejectionSender] | None = None
        self._has_own_sender = on_rejected is not None or use_exception_handlers is not None
        self._starlette = _find_in_stack(app, Starlette)
        if self._starlette is not None:
            setattr(self._starlette, WRAPPED_KEY, True)

    @cached_property
    def _cors(self) -> tuple[CORSMiddleware, ...]:
        """The CORS middlewares behind this one.

        An app that this one wraps by hand may get its own until the first request.
        """
        return tuple(iter_cors(self.app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request to the app, or send the rejection."""
        if scope["type"] not in _SCOPE_TYPES or (
            scope.get("method") == "OPTIONS"
            and self._cors
            and await answers_preflight(self._cors, scope)
        ):
            await self.app(scope, receive, send)
            return
        if "app" not in scope:
            self._add_app(scope)
        http_limiter = self._http_limiter or get_limiter(scope)
        outer = get_request_limits(scope)
        if outer is not None and outer.http_limiter is http_limiter:
            await self.app(scope, receive, send)
            return
        route = match_route(scope, self._routes)
        if (
            scope.get("method") == "OPTIONS"
            and route.cors
            and await answers_preflight(route.cors, scope)
        ):
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
        if self._has_own_sender:
            scope[REJECTION_SENDER_KEY] = http_limiter, self._own_sender
        dependencies = route.active_rate_limits()
        if route.mounted_app is not None and has_other_limiter(route.mounted_app, http_limiter):
            # The mounted app's own limiter checks them.
            dependencies = ()
        try:
            try:
                rejection = await request_limits.check(
                    scope, dependencies, match_policies=True, receive=receive
                )
            except Exception as error:  # noqa: BLE001 - it is raised again without a handler
                await self._send_error(error, route, scope, receive, send)
                return
            if rejection is None:
                receive = request_limits.receive or receive
                await self.app(scope, receive, SendWithHeaders(request_limits, scope, send))
            else:
                await self._reject(request_limits, rejection, scope, receive, send)
        finally:
            if request_limits.has_leases or request_limits.settlement is not None:
                await request_limits.end(sys.exception())

    def _reject(
        self,
        request_limits: RequestLimits,
        rejection: RejectionResponse,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Awaitable[None]:
        """Send a rejection: without further calls in a flood of denied requests."""
        if (
            rejection.cause is RejectionCause.LIMIT
            and not request_limits.http_limiter.rejection_sender.is_needed
            and REJECTION_SENDER_KEY not in scope
            and not self._cors
            and not request_limits.route.cors
        ):
            return send_rejection(rejection, scope, receive, send)
        return self._reject_as_the_app(request_limits, rejection, scope, receive, send)

    async def _reject_as_the_app(
        self,
        request_limits: RequestLimits,
        rejection: RejectionResponse,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Send a rejection in the app's own format, and with the CORS headers of any response."""
        cors = (*self._cors, *request_limits.route.cors)
        answer: ASGIApp
        if (context := request_limits.rejection_context(scope)) is not None:
            _, rejected = context.reject(rejection, request_limits.decision)
            answer = rejected if scope["type"] == "http" else rejected.deny_handshake
            if has_header(scope["headers"], ORIGIN_HEADER):
                exposed = request_limits.http_limiter.exposed_headers
                send = partial(_send_exposing, send, exposed)
            if request_limits.settlement is not None:
                # A rejected credential is a response to a request that was admitted.
                send = partial(_send_settled, send, request_limits.settlement)
        else:
            answer = partial(send_rejection, rejection)
            send = SendWithHeaders(request_limits, scope, send)
        await send_with_cors(answer, cors, scope, receive, send)

    def _own_sender(self, base: RejectionSender) -> RejectionSender:
        """Return what this middleware has for rejections, completed by what its limiter has."""
        if self._completed is None or self._completed[0] is not base:
            own = self._use_exception_handlers
            sender = RejectionSender(
                self._on_rejected or base.on_rejected,
                use_exception_handlers=base.use_exception_handlers if own is None else own,
            )
            self._completed = base, sender
        return self._completed[1]

    def _add_app(self, scope: Scope) -> None:
        """Add what the app adds to the scope: this middleware wraps the app and runs before it.

        An app that is not Starlette's has the routes that the policies name.
        """
        if self._starlette is not None:
            add_app(scope, self._starlette)
        elif self._routes is None and self._http_limiter is not None:
            self._routes = PolicyRouteTable(self._http_limiter.limiter.active_policies)

    async def _send_error(
        self, error: Exception, route: RouteInfo, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Handle the error of a cost function as the app handles an error of a dependency.

        An error without a handler is raised again.
        """

        async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
            raise error

        app = route.mounted_app or scope.get("app")
        handling: ASGIApp = ExceptionMiddleware(fail, exception_handlers(app))
        handling = partial(send_with_cors, handling, (*self._cors, *route.cors))
        if self._starlette is not None:
            # The app's own middleware for unexpected errors is behind this one.
            handler = unexpected_error_handler(self._starlette)
            handling = ServerErrorMiddleware(handling, handler, debug=self._starlette.debug)
        await handling(scope, receive, send)


async def _send_settled(send: Send, settlement: Settlement, message: Message) -> None:
    """Send a message after the correction of the costs that it corrects."""
    await settlement.before_send(message)
    await send(message)


async def _send_exposing(send: Send, names: str, message: Message) -> None:
    """Send a message, with these names exposed to a browser's script."""
    if message["type"] == "http.response.start":
        expose_headers(MutableHeaders(scope=message), names)
    await send(message)


def _find_in_stack(app: Any, kind: type[Wrapped]) -> Wrapped | None:
    """Return the first app of a class among an app and the apps that it wraps."""
    while app is not None:
        if isinstance(app, kind):
            return app
        app = getattr(app, "app", None)
    return None
