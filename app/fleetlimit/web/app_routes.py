"""Routes of an app: its table, built again when they change, and the route of a request in it."""

import copy
from operator import attrgetter
from typing import Any, Final

from starlette.applications import Starlette
from starlette.types import Scope

from fleetlimit.web.request_target import get_host, get_root
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import WEBSOCKET
from fleetlimit.web.route_scan import iter_nodes, iter_routers
from fleetlimit.web.route_table import RouteTable

_get_routes: Final = attrgetter("routes")


class AppRouteTable(RouteTable):
    """Table of the routes of a Starlette app, of its included routers and of its mounted apps.

    Args:
        router: The app's router.
    """

    def __init__(self, router: Any) -> None:
        self.router = router
        self.rebuild()

    def rebuild(self) -> None:
        """Replace all routes by those that the app has now."""
        self.routers = tuple(iter_routers(self.router))
        self.routes_by_router = [copy.copy(each.routes) for each in self.routers]
        """The routes of each router when the table was built, to notice changes."""
        self._replace_nodes(iter_nodes(self.router.routes))


def match_route(scope: Scope, table: RouteTable | None = None) -> RouteInfo:
    """Return the route of a request.

    Args:
        scope: ASGI scope of the request, before or after routing.
        table: Routes of an app that is not Starlette's.
    """
    table = table or _get_route_table(scope)
    host = get_host(scope) if table.has_hosts else ""
    return table.match(get_method(scope), scope["path"], host, root=get_root(scope))


def add_app(scope: Scope, app: Starlette) -> None:
    """Add to a scope what an app adds to it when it receives the request.

    Code that runs before the app needs both to match routes as the app does.
    """
    scope["app"] = app
    # FastAPI replaces the server's.
    if root_path := getattr(app, "root_path", ""):
        scope["root_path"] = root_path


def get_method(scope: Scope) -> str:
    """Return the request's method, `WEBSOCKET` for a handshake."""
    method: str = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
    return method


def _get_route_table(scope: Scope) -> RouteTable:
    """Return the table of the outermost app that received the request."""
    # A mounted app replaces `app` in the scope, but not `router`.
    return get_app_route_table(scope.get("router") or scope["app"].router)


def get_app_route_table(router: Any) -> RouteTable:
    """Return the table of an app's router. It is built again when the routes have changed."""
    table = getattr(router, "fleetlimit_routes", None)
    if not isinstance(table, AppRouteTable):
        table = router.fleetlimit_routes = AppRouteTable(router)
    # Without a call of Python code, because this runs in every request: lists compare their items
    # by identity first.
    elif [*map(_get_routes, table.routers)] != table.routes_by_router:
        table.rebuild()
    return table
