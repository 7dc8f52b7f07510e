"""Requests that a middleware leads to another route after the limiter has decided."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit import Fleetlimit, Match, Policy, PolicySet, RateLimitMiddleware
from fleetlimit.limiter.events import Event, RouteRewritten

POLICIES = PolicySet(
    [
        Policy("exports", "1/day", match=Match(frozenset({"POST"}), ("/exports",))),
        Policy("default", "100/day"),
    ]
)
REWRITTEN = RouteRewritten("GET /{name}", "POST /exports")
Next = Callable[[Request], Awaitable[Response]]


class InPlace:
    """Changes the scope that it received."""

    def __init__(self, app: ASGIApp, /, **changes: Any) -> None:
        self.app = app
        self.changes = changes or {"path": "/exports", "method": "POST"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Change the scope of a request."""
        if scope["type"] != "lifespan":
            scope.update(self.changes)
        await self.app(scope, receive, send)


class Copying(InPlace):
    """Changes a copy of the scope."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Copy the scope of a request."""
        await super().__call__(dict(scope), receive, send)


class Dispatching(BaseHTTPMiddleware):
    """Changes the scope of the request."""

    async def dispatch(self, request: Request, call_next: Next) -> Response:
        """Change the scope."""
        request.scope["path"] = "/exports"
        request.scope["method"] = "POST"
        return await call_next(request)


async def call_function(request: Request, call_next: Next) -> Response:
    """Change the scope, as `@app.middleware` has it."""
    request.scope.update(path="/exports", method="POST")
    return await call_next(request)


class Recorder:
    """Observer of rewritten routes."""

    def __init__(self) -> None:
        self.events: list[RouteRewritten] = []

    def on_event(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, RouteRewritten):
            self.events.append(event)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def make_app(recorder: Recorder, **given: Any) -> FastAPI:
    """Return an app with the limiter's lifespan, and without a middleware."""
    app = FastAPI(lifespan=Fleetlimit(policies=POLICIES, observers=[recorder]), **given)
    app.add_api_route("/exports", lambda: None, methods=["POST"])
    app.add_api_route("/{name}", lambda name: name)
    return app


REWRITING = [
    pytest.param(Middleware(InPlace), id="in place"),
    pytest.param(Middleware(Copying), id="copy"),
    pytest.param(Middleware(Dispatching), id="dispatch"),
    pytest.param(Middleware(BaseHTTPMiddleware, dispatch=call_function), id="function"),
]


@pytest.mark.parametrize("rewriting", REWRITING)
def test_rewritten_request_is_reported(
    rewriting: Middleware, recorder: Recorder, log: pytest.LogCaptureFixture
) -> None:
    """Whichever way a middleware changes a request, the log has both routes, once."""
    app = make_app(recorder, middleware=[Middleware(RateLimitMiddleware), rewriting])
    with TestClient(app) as client:
        assert [client.get("/a").status_code for _ in range(3)] == [200, 200, 200]
    assert recorder.events == [REWRITTEN]
    [line] = [each for each in log.messages if "route.rewritten" in each]
    assert "app.add_middleware(RateLimitMiddleware) before" in line


@pytest.mark.parametrize("rewriting", REWRITING)
def test_request_is_limited_by_its_last_route(rewriting: Middleware, recorder: Recorder) -> None:
    """Outside the limiter the same middleware is no problem."""
    app = make_app(recorder, middleware=[rewriting, Middleware(RateLimitMiddleware)])
    with TestClient(app) as client:
        assert [client.get("/a").status_code for _ in range(2)] == [200, 429]
    assert recorder.events == []


def test_added_middlewares_run_in_the_documented_order(recorder: Recorder) -> None:
    """The order in the log line is the right one: the middleware that is added last runs first."""
    app = make_app(recorder)
    app.add_middleware(RateLimitMiddleware)
    app.add_middleware(InPlace)
    with TestClient(app) as client:
        assert [client.get("/a").status_code for _ in range(2)] == [200, 429]
    assert recorder.events == []


def test_method_alone_is_compared(recorder: Recorder) -> None:
    """A method override reaches a policy of the other method; invented methods add no event."""
    app = make_app(recorder)
    app.add_middleware(InPlace, method="POST")
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        for method in ("GET", "PUT", "FOO", "BAR"):
            client.request(method, "/exports")
    assert [each.decided for each in recorder.events] == [
        "GET /{name}",
        "PUT /exports",
        "ANY /exports",
    ]
    assert {each.routed for each in recorder.events} == {"POST /exports"}


def test_root_path_is_compared(recorder: Recorder) -> None:
    """A middleware that strips a prefix by the root path changes the route, too."""
    app = make_app(recorder)
    app.add_middleware(InPlace, root_path="/api")
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        assert client.post("/api/exports").status_code == 200
    assert recorder.events == [RouteRewritten("POST unmatched", "POST /exports")]


def test_websocket_is_compared(recorder: Recorder) -> None:
    """A handshake has a path as well."""

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    app = make_app(recorder)
    app.add_api_websocket_route("/ws", echo)
    app.add_middleware(InPlace, path="/ws")
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client, client.websocket_connect("/other"):
        pass
    assert recorder.events == [RouteRewritten("WEBSOCKET unmatched", "WEBSOCKET /ws")]


async def answer(_request: Request) -> Response:
    return PlainTextResponse("ok")


ROUTES = (Route("/a", answer), Route("/b", answer))


@pytest.mark.parametrize(
    "mount",
    [
        Mount(
            "/sub",
            Starlette(routes=ROUTES, middleware=[Middleware(Copying, path="/sub/b")]),
        ),
        Mount("/sub", Copying(Router(routes=ROUTES), path="/sub/b")),
        Mount("/sub", routes=list(ROUTES), middleware=[Middleware(Copying, path="/sub/b")]),
    ],
    ids=["app", "wrapped router", "middleware of the mount"],
)
def test_middleware_of_a_mount_is_compared(mount: Mount, recorder: Recorder) -> None:
    """The middlewares of a mounted app run behind the limiter of the app around it."""
    app = make_app(recorder)
    app.router.routes.insert(0, mount)
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        assert client.get("/sub/a").text == "ok"
    assert recorder.events == [RouteRewritten("GET /sub/a", "GET /sub/b")]


def test_host_is_compared(recorder: Recorder) -> None:
    """A middleware can lead a request to the routes of another host."""
    app = make_app(recorder)
    app.router.routes.insert(0, Host("b.example", Router(routes=[Route("/only", answer)])))
    app.add_middleware(InPlace, headers=[(b"host", b"b.example")])
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        assert client.get("/only").text == "ok"
    assert recorder.events == [RouteRewritten("GET /{name}", "GET /only")]


@pytest.mark.parametrize("root_path", ["", "/api"])
def test_usual_requests_are_not_reported(recorder: Recorder, root_path: str) -> None:
    """Mounts, root paths, redirects, HEAD, unknown paths and methods are no rewriting."""
    inner = FastAPI()
    inner.root_path = "/elsewhere"
    inner.add_api_route("/x", lambda: None)
    app = make_app(recorder)
    app.root_path = root_path
    app.router.routes.insert(0, Mount("/sub", Starlette(routes=[Mount("/app", inner)])))
    app.router.routes.insert(0, Host("{name}.example", Router(routes=[Route("/h", answer)])))
    app.add_api_route("/deep/{path:path}", lambda path: path)
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        for path in ("/a", "/a/", "/a/b/c", "/sub/app/x", "/sub/none", "/deep/%2e/a%2Fb", "/é"):
            for method in ("GET", "HEAD", "POST", "OPTIONS", "FOO"):
                client.request(method, path)
        client.get("http://a.example/h")
    assert recorder.events == []


def test_lifespans_watch_a_router_once(recorder: Recorder) -> None:
    """An app that starts several times has one detector, and works after each start."""
    app = make_app(recorder, middleware=[Middleware(RateLimitMiddleware), Middleware(InPlace)])
    for _ in range(3):
        with TestClient(app) as client:
            assert client.get("/a").status_code == 200
    assert recorder.events == [REWRITTEN]


def test_dependencies_alone_are_not_watched(recorder: Recorder) -> None:
    """Dependencies run after the routing, so the router of such an app stays as it is."""
    app = make_app(recorder, middleware=[Middleware(InPlace)])
    before = app.router.middleware_stack
    with TestClient(app) as client:
        client.get("/a")
    assert app.router.middleware_stack is before
