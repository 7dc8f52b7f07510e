"""Scan of an app's routes, alike for every FastAPI version.

It makes a tree: the routes of the app, and those of each mount and host below it, with full
templates. FastAPI 0.137 stopped flattening included routers into `app.routes`;
`iter_route_contexts` gives the flat view where it exists (slowapi #281 shows how a limiter fails
without it).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fastapi import routing as fastapi_routing
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute, compile_path

from fleetlimit.web.cors import iter_cors
from fleetlimit.web.route_info import UNMATCHED, RouteInfo, iter_calls
from fleetlimit.web.route_policies import WEBSOCKET
from fleetlimit.web.route_table import RouteNode


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


def iter_routers(router: Any) -> Iterator[Any]:
    """Yield an app's router, its included routers, and the routers of its mounts."""
    yield router
    for route in router.routes or ():
        # A router that FastAPI 0.137 or later includes keeps its own routes.
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from iter_routers(included)
        elif isinstance(route, Mount | Host):
            app = get_mounted_app(route)
            if app is not None:
                yield from iter_routers(app.router if isinstance(app, Starlette) else app)
