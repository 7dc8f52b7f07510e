"""Lookup of a request's route before routing, alike for every FastAPI version.

One scan of the app's routes makes a table of full templates, with include prefixes and mount paths
resolved. A request's path is then looked up in a dictionary, or matched against the templates in
the order in which the app would try them. FastAPI 0.137 stopped flattening included routers into
`app.routes`; `iter_route_contexts` gives the flat view where it exists (slowapi #281 shows how a
limiter fails without it).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any

from fastapi import routing as fastapi_routing
from fastapi.dependencies.utils import get_dependant
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute, compile_path
from starlette.types import Scope

from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.errors import ConfigError
from fleetlimit.web.cors import iter_cors
from fleetlimit.web.route_policies import WEBSOCKET, PolicyCache, RateLimitDependency


@dataclass(frozen=True)
class RouteInfo:
    """One route of an app.

    Args:
        template: Full template, such as `/v1/items/{item_id}`; empty where no route matched.
        methods: Methods in upper case; empty for any.
        dependency_calls: Callables of the route's dependencies, sub-dependencies included.
        dependant: FastAPI's tree of the route's dependencies; None for a route of Starlette.
        overrides_provider: App whose `dependency_overrides` apply to the route; None for a route of
            Starlette.
        host: Pattern of the hosts that serve the route; empty for any.
        mounted_app: Nearest mounted Starlette app that the route belongs to; None for a route of
            the outermost app.
        mount_cors: CORS middlewares of the mounts and mounted apps around the route, the outermost
            first.
        route_cors: CORS middlewares of the route itself.
        endpoint: Function or app that handles requests; None where no route of the app does.
        policy_cache: Cache of the policies that apply to requests of this route.
    """

    template: str = ""
    methods: frozenset[str] = frozenset()
    dependency_calls: tuple[Any, ...] = ()
    dependant: Any = field(default=None, repr=False, compare=False)
    overrides_provider: Any = field(default=None, repr=False, compare=False)
    host: str = ""
    mounted_app: Starlette | None = field(default=None, repr=False, compare=False)
    mount_cors: tuple[CORSMiddleware, ...] = field(default=(), repr=False, compare=False)
    route_cors: tuple[CORSMiddleware, ...] = field(default=(), repr=False, compare=False)
    endpoint: Any = field(default=None, repr=False, compare=False)
    policy_cache: PolicyCache = field(
        init=False, repr=False, compare=False, default_factory=PolicyCache
    )

    @cached_property
    def rate_limits(self) -> tuple[RateLimitDependency, ...]:
        """The dependencies that are rate limits, each once, without `dependency_overrides`."""
        return _rate_limits(self.dependency_calls)

    @cached_property
    def cors(self) -> tuple[CORSMiddleware, ...]:
        """The CORS middlewares that a request passes after the app's own, the outermost first."""
        return (*self.mount_cors, *self.route_cors)

    def active_rate_limits(self) -> tuple[RateLimitDependency, ...]:
        """Return the rate limits that FastAPI runs for a request, each once."""
        provider = self.overrides_provider
        if provider is None or not provider.dependency_overrides:
            return self.rate_limits
        return _rate_limits(self.active_calls())

    def active_calls(self) -> tuple[Any, ...]:
        """Return the callables of the dependencies that FastAPI runs for a request."""
        provider = self.overrides_provider
        if provider is None or not (overrides := provider.dependency_overrides):
            return self.dependency_calls
        return tuple(_dependency_calls(self.dependant, overrides))

    @cached_property
    def name(self) -> str:
        """Methods and template, as in bucket keys, logs and traces."""
        if not self.template:
            return UNMATCHED_ROUTE
        # Starlette adds HEAD to GET; both are the same route.
        methods = sorted(self.methods - {"HEAD"} or self.methods) or ["ANY"]
        return f"{','.join(methods)} {self.template}"


UNMATCHED = RouteInfo()


def _rate_limits(calls: Iterable[Any]) -> tuple[RateLimitDependency, ...]:
    limits = []
    for each in calls:
        if isinstance(each, type) and issubclass(each, RateLimitDependency):
            # FastAPI would take the arguments of the class from the query, so that clients choose.
            raise ConfigError(
                f"Depends({each.__name__}) has no limit: write Depends({each.__name__}(...)) with "
                "its arguments"
            )
        if isinstance(each, RateLimitDependency):
            limits.append(each)
    return tuple(dict.fromkeys(limits))


class RouteTable:
    """Table of an app's routes.

    Args:
        routes: The routes, in the order in which the app tries them.
    """

    def __init__(self, routes: Iterable[RouteInfo]) -> None:
        self.replace(routes)

    def replace(self, routes: Iterable[RouteInfo]) -> None:
        """Replace all routes."""
        self.routes = tuple(routes)
        self._patterns = [(_pattern(route.template), route) for route in self.routes]
        self._hosts = {route.host: _pattern(route.host) for route in self.routes if route.host}
        self.has_hosts = bool(self._hosts)
        """Whether some route is limited to a host."""
        self._exact: dict[str, tuple[RouteInfo, ...]] = {}
        for route in self.routes:
            if "{" not in route.template and route.template not in self._exact:
                self._exact[route.template] = tuple(self._iter_matching(route.template))

    def match(self, method: str, path: str, host: str = "") -> RouteInfo:
        """Return the route for a method and path, or for the path alone, or `UNMATCHED`.

        The route for the path alone has no `dependency_calls` and no middleware: the app answers
        405 without running them.
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
                path_match = replace(
                    route, dependency_calls=(), overrides_provider=None, route_cors=()
                )
        return path_match

    def _iter_matching(self, path: str) -> Iterator[RouteInfo]:
        return (route for pattern, route in self._patterns if pattern.match(path))


def _pattern(template: str) -> re.Pattern[str]:
    """Compile a template; a mounted app may use a parameter name of the app around it."""
    numbers = count()
    return compile_path(re.sub(r"{\w+", lambda _: f"{{p{next(numbers)}", template))[0]


def iter_routes(
    routes: Sequence[BaseRoute],
    prefix: str = "",
    host: str = "",
    mounted_app: Starlette | None = None,
    mount_cors: tuple[CORSMiddleware, ...] = (),
) -> Iterator[RouteInfo]:
    """Yield the routes below `prefix`, and those of mounted apps.

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
            mount_path = prefix + path.rstrip("/")
            cors = (*mount_cors, *iter_cors(inner.app))
            yield from _mounted_routes(route, mount_path, host, mounted_app, cors)
            # Paths that the mounted app serves without routes, such as static files.
            yield RouteInfo(f"{mount_path}/{{path:path}}", host=host, mount_cors=cors)
        elif isinstance(inner, Host):
            cors = (*mount_cors, *iter_cors(route.app))
            yield from _mounted_routes(route, prefix, route.host, mounted_app, cors)
        elif path or prefix:
            info = _route_info(route, prefix + path, socket=isinstance(inner, WebSocketRoute))
            yield replace(
                info,
                host=host,
                mounted_app=mounted_app,
                mount_cors=mount_cors,
                route_cors=tuple(iter_cors(getattr(route, "app", None))),
            )


def _mounted_routes(
    route: Any,
    prefix: str,
    host: str,
    mounted_app: Starlette | None,
    mount_cors: tuple[CORSMiddleware, ...],
) -> Iterator[RouteInfo]:
    app = get_mounted_app(route)
    if app is not None:
        nearest = app if isinstance(app, Starlette) else mounted_app
        yield from iter_routes(app.routes or (), prefix, host, nearest, mount_cors)


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
        dependency_calls=tuple(_dependency_calls(dependant, {})),
        dependant=dependant,
        overrides_provider=getattr(route, "dependency_overrides_provider", None),
    )


def _dependency_calls(dependant: Any, overrides: Mapping[Any, Any]) -> Iterator[Any]:
    """Yield the calls that `fastapi.dependencies.utils.solve_dependencies` runs."""
    for each in dependant.dependencies:
        call, dependencies = each.call, each
        if overrides and call in overrides:
            call = overrides[call]
            dependencies = get_dependant(path=each.path or "", call=call)
        yield call
        yield from _dependency_calls(dependencies, overrides)


class AppRouteTable(RouteTable):
    """Table of the routes of a Starlette app, of its included routers and of its mounted apps.

    Args:
        routes: The app's routes.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.rebuild(routes)

    def rebuild(self, routes: Sequence[BaseRoute]) -> None:
        """Replace all routes by those that the app has now."""
        self.route_lists = tuple(_route_lists(routes))
        self.size = sum(map(len, self.route_lists))
        self.replace(iter_routes(routes))


def _route_lists(routes: Sequence[BaseRoute]) -> Iterator[Sequence[BaseRoute]]:
    """Yield the lists of an app's routes, of its routers' and of its mounts'."""
    yield routes
    for route in routes:
        # A router that FastAPI 0.137 or later includes stays a list of its own.
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from _route_lists(router.routes)
        elif isinstance(route, Mount | Host):
            app = get_mounted_app(route)
            if app is not None:
                yield from _route_lists(app.routes or ())


def match_route(scope: Scope, table: RouteTable | None = None) -> RouteInfo:
    """Return the route of a request.

    Args:
        scope: ASGI scope of the request, before or after routing.
        table: Routes of an app that is not Starlette's.
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
    """Return the table of the outermost app that received the request."""
    # A mounted app replaces `app` in the scope, but not `router`.
    return get_app_route_table(scope.get("router") or scope["app"].router)


def get_app_route_table(router: Any) -> RouteTable:
    """Return the table of an app's router. It is built again when routes were added or removed."""
    routes = router.routes
    table = getattr(router, "fleetlimit_routes", None)
    if not isinstance(table, AppRouteTable):
        table = router.fleetlimit_routes = AppRouteTable(routes)
    # Built-in functions only, because this runs in every request.
    elif sum(map(len, table.route_lists)) != table.size or table.route_lists[0] is not routes:
        table.rebuild(routes)
    return table


def _get_route_path(scope: Scope, root: str) -> str:
    """Return the path relative to the outermost app.

    `root` is the current app's `root_path`; `app_root_path` is the outermost one's.
    """
    path: str = scope["path"]
    root = scope.get("app_root_path", root)
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
