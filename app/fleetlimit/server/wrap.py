"""Wrapper of the served app: the limiter's middleware, tracing and the routes of the app."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.bootstrap.app_middlewares import has_middleware
from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.errors import ConfigError
from fleetlimit.telemetry import instrument_app, instrument_asgi
from fleetlimit.telemetry.tracing.setup import PARENTS_PER_SECOND
from fleetlimit.web.app_routes import add_app, get_app_route_table, match_route
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.policy_routes import PolicyRouteTable
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import WEBSOCKET
from fleetlimit.web.route_table import RouteTable
from fleetlimit.web.serving_limiter import set_serving_limiter


def import_app(target: str, *, factory: bool = False) -> ASGIApp:
    """Import `package.module:app`, or create the example app for an empty target.

    Args:
        target: Name of the app; empty for the example app.
        factory: Whether the target is a function without arguments that creates the app.

    Raises:
        ConfigError: The module or the app does not exist, or it is no ASGI app; the message has the
            form to write.
    """
    if not target:
        if factory:
            raise ConfigError("--factory has no app: write --factory package.module:create_app")
        from fleetlimit.server import example_app  # noqa: PLC0415 - other apps start without it

        return example_app.create_app()
    found = _import(target)
    if factory:
        found = _create(found, target)
    if not _is_asgi_app(found):
        hint = (
            "a factory must return one, and not be a coroutine function"
            if factory
            else f"write fleetlimit serve --factory {target} if it is a function that creates one"
        )
        raise ConfigError(f"{target} is no ASGI app, a callable of scope, receive and send: {hint}")
    app: ASGIApp = found
    return app


def _import(target: str) -> Any:
    """Import a callable.

    Raises:
        ConfigError: The module or the callable does not exist.
    """
    module, colon, attribute = target.partition(":")
    if not colon or not module or not attribute:
        raise ConfigError(f"{target!r} is not an app: write package.module:app")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigError(
            f"there is no module {module!r} in {here} or among the installed packages"
        ) from error
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise ConfigError(f"{module} has no app named {attribute!r}")
    return found


def _create(factory: Any, target: str) -> Any:
    """Return what a factory creates.

    Raises:
        ConfigError: It is an app, or has arguments without a default.
    """
    if _is_asgi_app(factory):
        raise ConfigError(f"{target} is an app and no factory: leave out --factory")
    if not _accepts(factory):
        raise ConfigError(
            f"{target} has arguments without a default: write a factory without arguments"
        )
    created = factory()
    if inspect.iscoroutine(created):
        created.close()
    return created


def _is_asgi_app(value: Any) -> bool:
    """Return whether a value is callable with scope, receive and send, as ASGI 3 has it."""
    if not callable(value) or not _accepts(value, {}, None, None):
        return False
    if isinstance(value, type):
        # The call makes an object, which uvicorn awaits.
        return hasattr(value, "__await__")
    call = value if inspect.isroutine(value) else value.__call__
    # A function that needs no argument may be a factory with options.
    return inspect.iscoroutinefunction(call) or not _accepts(value)


def _accepts(value: Any, *arguments: object) -> bool:
    """Return whether a callable accepts these arguments; True where Python does not know."""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _not_a_factory(app: ASGIApp) -> ASGIApp:
    """Return an app that cannot be called without arguments.

    uvicorn takes any other for a factory, and serves what the call returns.
    """
    if not _accepts(app):
        return app

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return call


class WrappedApp:
    """App with the limiter's middleware, and tracing if it is on.

    Args:
        target: The app.
        fleetlimit: The limiter; the caller starts and closes it.
        provider: Tracer provider of the requests' spans; None without tracing.
        trace_parents_per_second: See `instrument_app`.

    Raises:
        ConfigError: A dependency of the app names a policy that does not exist.
    """

    def __init__(
        self,
        target: ASGIApp,
        fleetlimit: Fleetlimit,
        provider: TracerProvider | None = None,
        *,
        trace_parents_per_second: int = PARENTS_PER_SECOND,
    ) -> None:
        self.fleetlimit = fleetlimit
        starlette = self._starlette = find_starlette(target)
        self.opaque = starlette is None
        if starlette is not None:
            # Added to the app's own middleware, so that tracing and CORS apply to rejections.
            _require_no_other_limiter(starlette)
            if not has_middleware(starlette):
                starlette.add_middleware(RateLimitMiddleware, http_limiter=fleetlimit.http_limiter)
            set_serving_limiter(starlette, fleetlimit)
            fleetlimit.install(starlette)
            self.app: ASGIApp = _not_a_factory(target)
        else:
            self._policy_routes = PolicyRouteTable(fleetlimit.limiter.active_policies)
            fleetlimit.route_reporter.log_routes(self._policy_routes, match_policies=True)
            self.app = RateLimitMiddleware(
                target, http_limiter=fleetlimit.http_limiter, routes=self._policy_routes
            )
        if provider is not None:
            self._trace(target, provider, trace_parents_per_second)

    @property
    def routes(self) -> RouteTable:
        """The routes that the app has now."""
        if self._starlette is None:
            return self._policy_routes
        return get_app_route_table(self._starlette.router)

    def match_route(self, scope: Scope) -> RouteInfo:
        """Return the route of a request that the app has not received yet."""
        if self._starlette is not None:
            scope = {**scope}
            add_app(scope, self._starlette)
        return match_route(scope, self.routes)

    def _trace(self, target: ASGIApp, provider: TracerProvider, parents_per_second: int) -> None:
        if isinstance(target, FastAPI):
            instrument_app(target, provider, parents_per_second=parents_per_second)
        else:
            self.app = instrument_asgi(
                self.app, provider, self._span, parents_per_second=parents_per_second
            )

    def _span(self, scope: Scope) -> tuple[str, dict[str, str]]:
        """Return a span name with the route's template: a path would be of high cardinality."""
        method = scope.get("method", WEBSOCKET)
        template = self.match_route(scope).template
        return f"{method} {template}".strip(), {"http.route": template} if template else {}


def _require_no_other_limiter(app: Starlette) -> None:
    """Check that the app's middleware takes the limiter that is installed on the app.

    Raises:
        ConfigError: It was given another one, which is not started.
    """
    for each in app.user_middleware:
        if each.cls is RateLimitMiddleware and each.kwargs.get("http_limiter") is not None:  # type: ignore[comparison-overlap]  # Starlette types factories
            raise ConfigError(
                "`fleetlimit serve` has its own limiter: leave http_limiter out of "
                "RateLimitMiddleware, or serve the app with uvicorn"
            )


def find_starlette(target: Any) -> Starlette | None:
    """Return the app of Starlette's that the target is, or that it wraps as its attribute `app`."""
    while target is not None and not isinstance(target, Starlette):
        target = getattr(target, "app", None)
    return target
