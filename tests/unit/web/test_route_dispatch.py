"""Route table and Starlette's routers: both find the same route, for any path."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.web.app_routes import match_route
from fleetlimit.web.route_info import RouteInfo
from support.web import collect_messages, http_scope

NOT_ALLOWED: Final = 405
ANY_PATH: Final = "/{path:path}"


class Dispatched:
    """What an app ran for the last request.

    Its methods make the endpoints and the mounted apps of an app, which report to it.
    """

    def __init__(self) -> None:
        self.mounts: list[str] = []
        self.template: str | None = None
        self.found_by_endpoint: RouteInfo | None = None

    def endpoint(self, template: str) -> Callable[[Request], PlainTextResponse]:
        """Return an endpoint of Starlette with this full template."""

        def run(request: Request) -> PlainTextResponse:
            self.template = template
            # A dependency finds the route from the scope of the innermost app.
            self.found_by_endpoint = match_route(request.scope)
            return PlainTextResponse(request.method)

        return run

    def mount(self, template: str, app: ASGIApp) -> "MountedApp":
        """Return an app that is mounted at this full path."""
        return MountedApp(app, lambda: self.mounts.append(template))


class MountedApp:
    """Middleware around a mounted app; its routes are found in `app`."""

    def __init__(self, app: ASGIApp, on_request: Callable[[], None]) -> None:
        self.app = app
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Report the request and run the app."""
        self._on_request()
        await self.app(scope, receive, send)


def _routes(seen: Dispatched, prefix: str, *templates: str) -> list[Any]:
    """Return routes with these templates below a prefix; `POST ` before one is its method."""
    routes = []
    for each in templates:
        method, _, template = each.rpartition(" ")
        methods = [method or "GET"]
        routes.append(Route(template, seen.endpoint(prefix + template), methods=methods))
    return routes


def _plain(seen: Dispatched) -> Router:
    return Router(
        [
            *_routes(seen, "", "/", "/a", "POST /a", "/a/{x}", "POST /a/{y}/b", "/i/{n:int}"),
            *_routes(seen, "", "/files/{p:path}", "POST /{x}/b", "/{x}/{y}/"),
            WebSocketRoute("/b", seen.endpoint("/b")),
        ]
    )


def _mounts(seen: Dispatched) -> Router:
    deep = Router(_routes(seen, "/sub/{t}", "/", "/a", "/{x}", "POST /b"))
    inner = Router(
        [
            *_routes(seen, "/sub", "/a", "POST /b", "/i/{n:int}", "/a/{x}", "/sub/{x}"),
            Mount("/{t}", seen.mount("/sub/{t}", deep)),
        ]
    )
    return Router(
        [
            *_routes(seen, "", "/sub/first", "/a"),
            Mount("/sub", seen.mount("/sub", inner)),
            *_routes(seen, "", "/sub/late", "/{x}", "/{x}/{y}", "POST /sub/{p:path}"),
        ]
    )


def _catch_all(seen: Dispatched) -> Router:
    inner = Router(_routes(seen, "/sub", "/a", "POST /{p:path}", "/{p:path}"))
    return Router(
        [
            Mount("/sub", seen.mount("/sub", inner)),
            *_routes(seen, "", "/{p:path}"),
        ]
    )


def _path_in_mount(seen: Dispatched) -> Router:
    inner = Router(_routes(seen, "/{p:path}/sub", "/", "/a", "/a/b"))
    rest = Router(_routes(seen, "/{p:path}", "/", "/a", "/a/{x}", "/sub/{x}"))
    return Router(
        [
            Mount("/{p:path}/sub", seen.mount("/{p:path}/sub", inner)),
            Mount("/{p:path}", seen.mount("/{p:path}", rest)),
        ]
    )


def _root_mount(seen: Dispatched) -> Router:
    inner = Router(_routes(seen, "", "/a", "/a/{x}", "POST /sub/{x}"))
    return Router([*_routes(seen, "", "/b"), Mount("", seen.mount("", inner))])


def _hosts(seen: Dispatched) -> Router:
    inner = Router(_routes(seen, "", "/a", "POST /b", "/sub/{x}"))
    return Router(
        [Host("testserver", inner), *_routes(seen, "", "/b", "/{x}"), Host("other", inner)]
    )


def _included(seen: Dispatched) -> FastAPI:
    app, router, child = FastAPI(openapi_url=None), APIRouter(), APIRouter()
    for target, prefix, path in (
        (router, "/sub", ""),
        (router, "/sub", "/a"),
        (child, "/sub/{t}", "/b"),
        (child, "/sub/{t}", "/{x}/"),
        (app, "", "/{x}"),
    ):
        target.get(path)(_fastapi_endpoint(seen, prefix + path))
    router.include_router(child, prefix="/{t}")
    app.include_router(router, prefix="/sub")
    app.mount("/a", seen.mount("/a", Router(_routes(seen, "/a", "/b"))))
    return app


def _fastapi_endpoint(seen: Dispatched, template: str) -> Callable[[], None]:
    def run() -> None:
        seen.template = template

    return run


APPS: Final = {
    each.__name__.strip("_"): each
    for each in (
        _plain,
        _mounts,
        _catch_all,
        _path_in_mount,
        _root_mount,
        _hosts,
        _included,
    )
}
_pieces = st.sampled_from(
    [
        *"///\n\r; a.\x00\x85",
        "/a",
        "/b",
        "/sub",
        "/i/7",
        "/files",
        "%2F",
        "%0A",
        "7",
        "..",
        "é",
        "\u2028",
        "/first",
        "/late",
        "/sub/a\n",
    ]
)
_paths = st.lists(_pieces, min_size=1, max_size=6).map("".join)


def _expected(seen: Dispatched, status: int, method: str, found: RouteInfo) -> bool:
    """Return whether the table found what the app ran."""
    if seen.template is not None:
        return found.template == seen.template and method in found.methods
    if status == NOT_ALLOWED:
        return bool(found.template) and bool(found.methods) and method not in found.methods
    if seen.mounts:
        return found.template == seen.mounts[-1] + ANY_PATH and not found.methods
    return not found.template


@pytest.mark.parametrize("name", APPS)
@settings(
    max_examples=300,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    path=_paths,
    method=st.sampled_from(["GET", "GET", "POST", "DELETE"]),
    root_path=st.sampled_from(["", "", "/api", "/api/", "/a", "/sub"]),
    below_root=st.booleans(),
)
def test_table_finds_the_route_that_the_app_runs(
    name: str, path: str, method: str, root_path: str, *, below_root: bool
) -> None:
    """The table finds the endpoint, the mount or nothing, as the app does."""
    if below_root:
        path = root_path + path
    asyncio.run(_compare(name, path, method, root_path))


_built: dict[str, tuple[Dispatched, Any]] = {}


async def _compare(name: str, path: str, method: str, root_path: str) -> None:
    if name not in _built:
        seen = Dispatched()
        _built[name] = seen, APPS[name](seen)
    seen, app = _built[name]
    router = getattr(app, "router", app)
    seen.mounts.clear()
    seen.template = seen.found_by_endpoint = None
    found = match_route(http_scope(path, method=method, root_path=root_path, router=router))
    scope = http_scope(path, method=method, root_path=root_path)
    messages = await collect_messages(app, scope)
    status = messages[0]["status"]
    assert _expected(seen, status, method, found), (found, seen.template, seen.mounts, status)
    assert seen.found_by_endpoint in {None, found}
