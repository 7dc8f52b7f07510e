"""Route table: finds the route of a path as Starlette's routers do.

A path is looked up in a dictionary, or matched against a tree of routes: the first mount or host
that matches decides.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from starlette.routing import compile_path

from fleetlimit.web.request_target import relative_path
from fleetlimit.web.route_info import UNMATCHED, RouteInfo
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
