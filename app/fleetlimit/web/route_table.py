"""Which route a request goes to, known before routing and the same for every FastAPI.

One scan of the app's routes makes a table of full templates: include prefixes and mount paths
resolved. A request's path is then looked up in a dictionary, or matched against the templates in
the order in which the app would try them. FastAPI 0.137 stopped flattening included routers into
`app.routes`; `iter_route_contexts` gives the flat view where it exists (see slowapi #281 for what
happens to a limiter that does not ask).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any

from fastapi import routing as fastapi_routing
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute, compile_path
from starlette.types import Scope

from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.web.route_policies import WEBSOCKET, PolicyCache, RateLimitDependency


@dataclass(frozen=True)
class RouteInfo:
    """One route of an app.

    Args:
        template: The full template, such as `/v1/items/{item_id}`; empty when none matched.
        methods: Methods in upper case; empty for any.
        dependency_calls: What the route's dependencies call, sub-dependencies included.
        host: Pattern of the hosts that have the route; empty for any.
        policy_cache: What requests ask for here.
    """

    template: str = ""
    methods: frozenset[str] = frozenset()
    dependency_calls: tuple[Any, ...] = ()
    host: str = ""
    policy_cache: PolicyCache = field(
        init=False, repr=False, compare=False, default_factory=PolicyCache
    )

    @cached_property
    def rate_limits(self) -> tuple[RateLimitDependency, ...]:
        """Those of the calls that ask for policies, each once."""
        return tuple(
            {
                id(each): each
                for each in self.dependency_calls
                if isinstance(each, RateLimitDependency)
            }.values()
        )

    @cached_property
    def name(self) -> str:
        """The route's methods and template, as buckets, logs and traces know it."""
        if not self.template:
            return UNMATCHED_ROUTE
        # HEAD comes along with GET by itself, and is the same route.
        methods = sorted(self.methods - {"HEAD"} or self.methods) or ["ANY"]
        return f"{','.join(methods)} {self.template}"


UNMATCHED = RouteInfo()


class RouteTable:
    """Looks up the route of a request.

    Args:
        routes: The routes, in the order in which the app tries them.
    """

    def __init__(self, routes: Iterable[RouteInfo]) -> None:
        self.routes = tuple(routes)
        self._patterns = [(_pattern(entry.template), entry) for entry in self.routes]
        self._hosts = {entry.host: _pattern(entry.host) for entry in self.routes if entry.host}
        self.has_hosts = bool(self._hosts)
        """Whether routes differ by the host that is asked for."""
        self._exact: dict[str, tuple[RouteInfo, ...]] = {}
        for route in self.routes:
            if "{" not in route.template and route.template not in self._exact:
                self._exact[route.template] = tuple(self._iter_matching(route.template))

    def match(self, method: str, path: str, host: str = "") -> RouteInfo:
        """Return the route for a method and path, or for the path alone, or `UNMATCHED`.

        The route for the path alone has no `calls`: the app answers 405 without them.
        """
        exact = self._exact.get(path)
        candidates = self._iter_matching(path) if exact is None else exact
        path_match = UNMATCHED
        for route in candidates:
            if route.host and not self._hosts[route.host].match(host):
                continue
            if not route.methods or method in route.methods:
                return route
            if path_match is UNMATCHED and method != WEBSOCKET:
                path_match = replace(route, dependency_calls=())
        return path_match

    def _iter_matching(self, path: str) -> Iterator[RouteInfo]:
        return (entry for pattern, entry in self._patterns if pattern.match(path))


def _pattern(template: str) -> re.Pattern[str]:
    """Compile a template; a mounted app may name a parameter as the app around it does."""
    numbers = count()
    return compile_path(re.sub(r"{\w+", lambda _: f"{{p{next(numbers)}", template))[0]


def iter_routes(
    routes: Sequence[BaseRoute], prefix: str = "", host: str = ""
) -> Iterator[RouteInfo]:
    """Yield the routes below `prefix`, those of mounted apps included."""
    for route in _flatten(routes):
        path = getattr(route, "path", None) or ""
        inner = getattr(route, "original_route", route)
        if isinstance(inner, Mount):
            mounted = prefix + path.rstrip("/")
            yield from iter_routes(_inner_routes(inner.app), mounted, host)
            # What the mounted app serves without routes of its own, such as static files.
            yield RouteInfo(f"{mounted}/{{path:path}}", host=host)
        elif isinstance(inner, Host):
            # Not the inner one: included with a prefix, its app is another.
            yield from iter_routes(_inner_routes(route.app), prefix, route.host)
        elif path or prefix:
            entry = _route_info(route, prefix + path, socket=isinstance(inner, WebSocketRoute))
            yield replace(entry, host=host)


def _inner_routes(app: Any) -> Sequence[BaseRoute]:
    """Return the routes of an app, which may have middleware around it."""
    while app is not None and not hasattr(app, "routes"):
        app = getattr(app, "app", None)
    return getattr(app, "routes", None) or ()


def _flatten(routes: Sequence[BaseRoute]) -> Iterator[Any]:
    contexts = getattr(fastapi_routing, "iter_route_contexts", None)
    return iter(routes) if contexts is None else contexts(routes)


def _route_info(route: Any, template: str, *, socket: bool) -> RouteInfo:
    methods = {WEBSOCKET} if socket else getattr(route, "methods", None) or ()
    dependant = getattr(route, "dependant", None)
    return RouteInfo(
        template, frozenset(methods), tuple(_dependency_calls(dependant)) if dependant else ()
    )


def _dependency_calls(dependant: Any) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from _dependency_calls(each)


def match_route(scope: Scope, table: RouteTable | None = None) -> RouteInfo:
    """Return the route that a request goes to.

    Args:
        scope: The request, on its way into the app or already at the route.
        table: The routes, when they are not those of a Starlette app.
    """
    table = table or _get_route_table(scope)
    path = _get_route_path(scope, root) if (root := scope.get("root_path")) else scope["path"]
    return table.match(get_method(scope), path, _get_host(scope) if table.has_hosts else "")


def get_method(scope: Scope) -> str:
    """Return the request's method, `WEBSOCKET` for a handshake."""
    method: str = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
    return method


def _get_host(scope: Scope) -> str:
    return Headers(scope=scope).get("host", "").partition(":")[0].lower()


def _get_route_table(scope: Scope) -> RouteTable:
    """Return the table of the outermost app that a request came to, scanned once."""
    # A mounted app puts itself in place of `app`; the first router stays.
    router = scope.get("router") or scope["app"].router
    table = getattr(router, "fleetlimit_routes", None)
    if not isinstance(table, RouteTable):
        table = router.fleetlimit_routes = RouteTable(iter_routes(router.routes))
    return table


def _get_route_path(scope: Scope, root: str) -> str:
    """Return the path below the root path of the outermost app; `root` is that of the app here."""
    path: str = scope["path"]
    root = scope.get("app_root_path", root)
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
