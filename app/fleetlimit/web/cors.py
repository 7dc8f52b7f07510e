"""CORS middlewares that a request passes, of an app, a mount, a mounted app and a route."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send


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


async def answers_preflight(middlewares: Sequence[CORSMiddleware], scope: Scope) -> bool:
    """Return whether one of the middlewares answers an OPTIONS request as a preflight."""
    headers = Headers(scope=scope)
    if "origin" not in headers or "access-control-request-method" not in headers:
        return False
    if any(type(each).__call__ is CORSMiddleware.__call__ for each in middlewares):
        return True
    # A subclass may pass some requests on, those of other paths for example.
    passed_on = False

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        nonlocal passed_on
        passed_on = True

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None: ...

    await send_with_cors(app, middlewares, {**scope}, receive, send)
    return not passed_on


async def send_with_cors(
    app: ASGIApp, middlewares: Sequence[CORSMiddleware], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run an app behind copies of CORS middlewares, the outermost first."""
    for middleware in reversed(middlewares):
        wrapped = copy.copy(middleware)
        wrapped.app = app
        app = wrapped
    await app(scope, receive, send)
