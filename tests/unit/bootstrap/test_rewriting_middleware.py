"""Search for middlewares behind the limiter that change the path or the method."""

from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from fleetlimit import Fleetlimit, RateLimitMiddleware
from fleetlimit.bootstrap.rewriting_middleware import find_rewriting_middlewares


class Wrapping:
    """Middleware without an effect."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log the method."""
        line = {"path": scope["path"], "method": scope["method"]}
        line["path"] = scope["path"].lower()
        await self.app(scope, receive, send)


class Assigning(Wrapping):
    """Assigns an item."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Assign a path."""
        if scope["type"] == "http":
            scope["path"] = scope["path"].lower()
        await self.app(scope, receive, send)


class Inheriting(Assigning):
    """Inherits the code that assigns."""


class Unpacking(Wrapping):
    """Makes a new scope."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Unpack a scope."""
        await self.app({**scope, "path": "/", "root_path": ""}, receive, send)


class Copying(Wrapping):
    """Copies with `dict`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Copy a scope."""
        await self.app(dict(scope, method="POST"), receive, send)


class Merging(Wrapping):
    """Merges dictionaries."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Merge a scope."""
        child_scope = {**scope}
        child_scope |= {"method": "PUT"}
        await self.app(child_scope | {"path": "/"}, receive, send)


class Updating(BaseHTTPMiddleware):
    """Updates the scope of the request."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Update a scope."""
        request.scope.update({"path": "/"}, method="POST")
        return await call_next(request)


async def override(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Override the method."""
    request.scope["method"] = request.headers.get("x-http-method-override", request.method)
    return await call_next(request)


def factory(app: ASGIApp) -> ASGIApp:
    """Return a middleware that is a function."""

    async def strip(scope: Scope, receive: Receive, send: Send) -> None:
        child_scope = dict(scope)
        child_scope["root_path"] = "/api"
        await app(child_scope, receive, send)

    return strip


def found(app: Starlette) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.name, each.changes) for each in find_rewriting_middlewares(app)]


@pytest.mark.parametrize(
    ("middleware", "name", "changes"),
    [
        (Middleware(Assigning), "Assigning", ("path",)),
        (Middleware(Inheriting), "Inheriting", ("path",)),
        (Middleware(Unpacking), "Unpacking", ("path", "root_path")),
        (Middleware(Copying), "Copying", ("method",)),
        (Middleware(Merging), "Merging", ("method", "path")),
        (Middleware(Updating), "Updating", ("method", "path")),
        (Middleware(BaseHTTPMiddleware, dispatch=override), "override", ("method",)),
        (Middleware(factory), "factory", ("root_path",)),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_rewriting_middleware_is_found(
    middleware: Middleware, name: str, changes: tuple[str, ...]
) -> None:
    """Each way to change a scope is found behind the limiter, and not around it."""
    behind = Starlette(middleware=[Middleware(RateLimitMiddleware), middleware])
    assert found(behind) == [(name, changes)]
    around = Starlette(middleware=[middleware, Middleware(RateLimitMiddleware)])
    assert found(around) == []
    wrapped = Starlette(middleware=[middleware])
    RateLimitMiddleware(wrapped)
    assert found(wrapped) == [(name, changes)]


def test_middlewares_of_mounted_apps_are_found() -> None:
    """A mounted app has the limiter around it, unless it has its own."""
    inner = Starlette(middleware=[Middleware(Assigning)])
    outer = Starlette(routes=[Mount("/inner", inner)], middleware=[Middleware(Copying)])
    own = Starlette(lifespan=Fleetlimit(), middleware=[Middleware(Merging)])
    app = Starlette(
        routes=[Mount("/outer", outer), Mount("/own", own)],
        middleware=[Middleware(RateLimitMiddleware)],
    )
    assert [name for name, _ in found(app)] == ["Copying", "Assigning"]


def test_other_middlewares_are_not_found() -> None:
    """Middlewares that log the path, or change something else, cause no warning."""
    others: list[Any] = [
        Wrapping,
        CORSMiddleware,
        GZipMiddleware,
        HTTPSRedirectMiddleware,
        ProxyHeadersMiddleware,
        TrustedHostMiddleware,
        type("WithoutSource", (), {"__call__": lambda: None}),
        exec,
    ]
    middlewares = [Middleware(RateLimitMiddleware), *map(Middleware, others)]
    assert found(Starlette(middleware=middlewares)) == []


def test_start_warns_of_a_rewriting_middleware(log: pytest.LogCaptureFixture) -> None:
    """The warning at start has the name, the keys and the order to write."""
    app = FastAPI(lifespan=Fleetlimit())
    app.add_middleware(Assigning)
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app):
        pass
    [line] = [each for each in log.messages if "middleware.rewrites" in each]
    assert "middleware=Assigning" in line
    assert "changes=['path']" in line
    assert "app.add_middleware(RateLimitMiddleware) before app.add_middleware of this" in line
