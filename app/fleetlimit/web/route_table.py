"""Lookup of a request's route before routing, alike for every FastAPI version.

One scan of the app's routes makes a tree: the routes of the app, and those of each mount and host
below it, with full templates. A request's path is looked up in a dictionary, or matched against
the tree as Starlette's routers do: the first mount or host that matches decides. FastAPI 0.137
stopped flattening included routers into `app.routes`; `iter_route_contexts` gives the flat view
where it exists (slowapi #281 shows how a limiter fails without it).
"""

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final

from fastapi import routing as fastapi_routing
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute, compile_path
from starlette.types import Scope

from fleetlimit.web.cors import iter_cors
from fleetlimit.web.request_target import get_host, get_root, relative_path
from fleetlimit.web.route_info import UNMATCHED, RouteInfo, iter_calls
from fleetlimit.web.route_policies import METHODS, WEBSOCKET


@dataclass(frozen=True, slots=True)
class RouteNode:
    """A route, a mount or a host, with the pattern by which its app finds it.

    Args:
        pattern: Pattern of the path below the mounts around it; of the host name for a host.
        route: The route; for a mount, the route of the paths that its app serves without routes.
        children: What a mount or host serves, in order; None for a route.
        is_host: Whether it is a host.
    """

    pattern: re.Pattern[str]
    route: RouteInfo
    children: tuple["RouteNode", ...] | None = None
    is_host: bool = False

    def routes(self) -> Iterator[RouteInfo]:
        """Yield the route, after the routes of a mount or host."""
        for child in self.children or ():
            yield from child.routes()
        if not self.is_host:
            yield self.route


class RouteTable:
    """Table of routes.

    Args:
        routes: The routes, in the order in which the app tries them.
    """

    def __init__(self, routes: Iterable[RouteInfo]) -> None:
        self.replace(routes)

    def replace(self, routes: Iterable[RouteInfo]) -> None:
        """Replace all routes by those of an app without mounts and hosts."""
        self._replace_nodes([RouteNode(compile_path(route.template)[0], route) for route in routes])

    def _replace_nodes(self, nodes: Iterable[RouteNode]) -> None:
        self._nodes = tuple(nodes)
        self.routes = tuple(route for node in self._nodes for route in node.routes())
        self.has_hosts = any(route.host for route in self.routes)
        """Whether some route is limited to a host."""
        self._has_mounts = any(node.children is not None for node in self._nodes)
        # By path without parameters and by method; a host may choose another route.
        self._exact: dict[str, dict[str, RouteInfo]] = {
            route.template: {}
            for route in self.routes
            if "{" not in route.template and not self.has_hosts
        }

    def match(self, method: str, path: str, host: str = "", *, root: str = "") -> RouteInfo:
        """Return the route for a method and path, or for the path alone, or `UNMATCHED`.

        The route for the path alone has no `dependency_calls` and no middleware: the app answers
        405 without running them.

        Args:
            method: Method of the request, `WEBSOCKET` for a handshake.
            path: Path of the request, with `root` if the server knows one.
            host: Name of the host.
            root: `root_path` of the outermost app.
        """
        below_root = relative_path(path, root) if root else path
        # Starlette serves mounts below the root path only.
        exact = (
            None
            if root and below_root is path and self._has_mounts
            else self._exact.get(below_root)
        )
        if exact is None:
            return _find_route(self._nodes, method, path, root, host)
        route = exact.get(method)
        if route is None:
            route = _find_route(self._nodes, method, path, root, host)
            # Some servers accept any word as a method; invented ones must not fill the table.
            if method in METHODS:
                exact[method] = route
        return route


def _find_route(
    nodes: Sequence[RouteNode], method: str, path: str, root: str, host: str
) -> RouteInfo:
    """Return the route that `starlette.routing.Router` runs among these.

    A path that a mount matches is never tried with later routes. Starlette's patterns end with `$`
    and have `.` in them, so a path with a line break may match a route and not the mount before it.
    """
    relative = relative_path(path, root) if root else path
    path_match = UNMATCHED
    for node in nodes:
        if node.is_host:
            if node.pattern.match(host):
                return _find_route(node.children or (), method, path, root, host)
            continue
        match = node.pattern.match(relative)
        if match is None:
            continue
        if node.children is not None:
            mounted_at = relative[: -len(match["path"]) - 1]
            route = _find_route(node.children, method, path, root + mounted_at, host)
            return node.route if route is UNMATCHED else route
        route = node.route
        if not route.methods or method in route.methods:
            return route
        if path_match is UNMATCHED and method != WEBSOCKET and WEBSOCKET not in route.methods:
            path_match = replace(route, dependency_calls=(), overrides_provider=None, route_cors=())
    return path_match


def iter_nodes(
    routes: Sequence[BaseRoute],
    prefix: str = "",
    host: str = "",
    mounted_app: Starlette | None = None,
    mount_cors: tuple[CORSMiddleware, ...] = (),
) -> Iterator[RouteNode]:
    """Yield the routes, mounts and hosts of an app.

    Args:
        routes: Routes as Starlette or FastAPI holds them.
        prefix: Path under which they are mounted.
        host: Pattern of the hosts that serve them; empty for any.
        mounted_app: Mounted app that they belong to; None for the outermost app.
        mount_cors: CORS middlewares around them, except those of the outermost app.
    """
    for route in flatten(routes):
        path = getattr(route, "path", None) or ""
        inner = getattr(route, "original_route", route)
        if isinstance(inner, Mount):
            path = path.rstrip("/")
            cors = (*mount_cors, *iter_cors(inner.app))
            children = tuple(_mounted_nodes(route, prefix + path, host, mounted_app, cors))
            # Paths that the mounted app serves without routes, such as static files.
            info = RouteInfo(f"{prefix}{path}/{{path:path}}", host=host, mount_cors=cors)
            yield RouteNode(compile_path(f"{path}/{{path:path}}")[0], info, children)
        elif isinstance(inner, Host):
            cors = (*mount_cors, *iter_cors(route.app))
            children = tuple(_mounted_nodes(route, prefix, route.host, mounted_app, cors))
            yield RouteNode(compile_path(route.host)[0], UNMATCHED, children, is_host=True)
        elif path or prefix:
            info = _route_info(route, prefix + path, socket=isinstance(inner, WebSocketRoute))
            info = replace(
                info,
                host=host,
                mounted_app=mounted_app,
                mount_cors=mount_cors,
                route_cors=tuple(iter_cors(getattr(route, "app", None))),
            )
            yield RouteNode(compile_path(path)[0], info)


def _mounted_nodes(
    route: Any,
    prefix: str,
    host: str,
    mounted_app: Starlette | None,
    mount_cors: tuple[CORSMiddleware, ...],
) -> Iterator[RouteNode]:
    app = get_mounted_app(route)
    if app is not None:
        nearest = app if isinstance(app, Starlette) else mounted_app
        yield from iter_nodes(app.routes or (), prefix, host, nearest, mount_cors)


def get_mounted_app(route: Any) -> Any:
    """Return the app of a `Mount` or `Host`, behind any middleware; None if it has no routes."""
    inner = getattr(route, "original_route", route)
    # Not `inner` for a `Host`: one that was included with a prefix has another app.
    app = inner.app if isinstance(inner, Mount) else getattr(route, "app", None)
    while app is not None and not hasattr(app, "routes"):
        app = getattr(app, "app", None)
    return app


def flatten(routes: Sequence[BaseRoute]) -> Iterator[Any]:
    """Yield routes with the routes of included routers resolved."""
    contexts = getattr(fastapi_routing, "iter_route_contexts", None)
    return iter(routes) if contexts is None else contexts(routes)


def _route_info(route: Any, template: str, *, socket: bool) -> RouteInfo:
    methods = {WEBSOCKET} if socket else getattr(route, "methods", None) or ()
    info = RouteInfo(template, frozenset(methods), endpoint=getattr(route, "endpoint", None))
    dependant = getattr(route, "dependant", None)
    if dependant is None:
        return info
    return replace(
        info,
        dependency_calls=tuple(iter_calls(dependant, {})),
        dependant=dependant,
        overrides_provider=getattr(route, "dependency_overrides_provider", None),
    )


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
        self.routers = tuple(_iter_routers(self.router))
        self.routes_by_router = [copy.copy(each.routes) for each in self.routers]
        """The routes of each router when the table was built, to notice changes."""
        self._replace_nodes(iter_nodes(self.router.routes))


_get_routes: Final = attrgetter("routes")


def _iter_routers(router: Any) -> Iterator[Any]:
    """Yield an app's router, its included routers, and the routers of its mounts."""
    yield router
    for route in router.routes or ():
        # A router that FastAPI 0.137 or later includes keeps its own routes.
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _iter_routers(included)
        elif isinstance(route, Mount | Host):
            app = get_mounted_app(route)
            if app is not None:
                yield from _iter_routers(app.router if isinstance(app, Starlette) else app)


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
