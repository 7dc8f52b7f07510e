"""Detection of requests that a middleware leads to another route after the limiter has decided.

`RateLimitMiddleware` selects policies by the path and the method that it receives. A middleware
between it and the router can change both, in the scope or in a copy. The policies of the route that
is served were not checked then. Only the router sees the values by which it routes.
"""

from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.limiter.events import RouteRewritten
from fleetlimit.web.app_routes import get_app_route_table, get_method, match_route
from fleetlimit.web.request_limits import REQUEST_LIMITS_KEY, RequestLimits
from fleetlimit.web.route_policies import METHODS
from fleetlimit.web.route_scan import flatten, get_mounted_app
from fleetlimit.web.route_table import RouteTable

_MAX_REPORTED: Final = 1_000
"""Pairs of routes that are reported; each is in the log once."""


class RewriteDetector:
    """ASGI app in front of a router that compares what is routed with what was decided.

    Args:
        app: The router's own middlewares and routes.
        routes: Routes of the outermost app. If some are limited to a host, a middleware can lead a
            request to them by the Host header as well.
    """

    def __init__(self, app: ASGIApp, routes: RouteTable) -> None:
        self.app = app
        self._routes = routes
        self._reported: set[RouteRewritten] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on."""
        request_limits: RequestLimits | None = scope.get(REQUEST_LIMITS_KEY)
        if request_limits is not None and (key := request_limits.routing_key) is not None:
            # A mount adds its path to the root path, so only the outermost router compares it.
            root_path = key[2] if "router" in scope else scope.get("root_path", "")
            if key != (scope["path"], scope.get("method"), root_path) or self._routes.has_hosts:
                self._compare(request_limits, scope, key[1])
        return self.app(scope, receive, send)

    def _compare(self, request_limits: RequestLimits, scope: Scope, method: str | None) -> None:
        decided, routed = request_limits.route, match_route(scope)
        if decided.name == routed.name and method == scope.get("method"):
            return
        # The routers of mounted apps would report the same.
        request_limits.routing_key = None
        event = RouteRewritten(
            _describe(method or get_method(scope), decided.template),
            _describe(get_method(scope), routed.template),
        )
        if event not in self._reported and len(self._reported) < _MAX_REPORTED:
            self._reported.add(event)
            request_limits.http_limiter.limiter.emit(event)


def _describe(method: str, template: str) -> str:
    # Clients can invent methods, which must not fill the log.
    return f"{method if method in METHODS else 'ANY'} {template or UNMATCHED_ROUTE}"


def watch_routers(app: Starlette) -> None:
    """Detect rewritten requests in front of the router of an app and of its mounted apps."""
    table = get_app_route_table(app.router)
    for router in (app.router, *_mounted_routers(app.routes)):
        if not isinstance(router.middleware_stack, RewriteDetector):
            detector: Any = RewriteDetector(router.middleware_stack, table)
            router.middleware_stack = detector


def _mounted_routers(routes: Sequence[BaseRoute]) -> Iterator[Router]:
    for route in flatten(routes):
        if isinstance(getattr(route, "original_route", route), Mount | Host):
            mounted = get_mounted_app(route)
            router = mounted.router if isinstance(mounted, Starlette) else mounted
            if isinstance(router, Router):
                yield router
                yield from _mounted_routers(router.routes)
