"""CORS middlewares that a request passes, of an app, a mount, a mounted app and a route."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send


def iter_cors(app: Any) -> Iterator[CORSMiddleware]:
    """Yield the CORS middlewares of an app and of the apps that it wraps, the outermost first."""
    while app is not None:
        if isinstance(app, CORSMiddleware):
            yield app
        if isinstance(app, Starlette):
            # Starlette creates the middlewares of an app when the first request or lifespan begins.
            for each in app.user_middleware:
                kind: Any = each.cls
                if _is_cors_class(kind):
                    yield kind(app.router, *each.args, **each.kwargs)
            app = app.router
        app = app.middleware_stack if isinstance(app, Router) else getattr(app, "app", None)


def _is_cors_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, CORSMiddleware)


def is_preflight(scope: Scope) -> bool:
    """Return whether a CORS middleware answers an OPTIONS request as a preflight."""
    headers = Headers(scope=scope)
    return "origin" in headers and "access-control-request-method" in headers


async def send_with_cors(
    app: ASGIApp, middlewares: Sequence[CORSMiddleware], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run an app behind copies of CORS middlewares, the outermost first."""
    for middleware in reversed(middlewares):
        wrapped = copy.copy(middleware)
        wrapped.app = app
        app = wrapped
    await app(scope, receive, send)
