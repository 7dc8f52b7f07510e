"""Puts limiter, telemetry and health in front of an app that knows nothing of them."""

import importlib
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette
from starlette.types import ASGIApp, Scope

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.route_report import has_middleware
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.server.example_app import create_app
from fleetlimit.telemetry import instrument_app, instrument_asgi
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.route_policies import WEBSOCKET
from fleetlimit.web.route_table import RouteInfo, RouteTable, iter_routes, match_route


def import_app(target: str) -> ASGIApp:
    """Import `package.module:app`, the bundled service for an empty target.

    Raises:
        ConfigError: There is no such module or app; the message says what to write.
    """
    if not target:
        return create_app()
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
    app: ASGIApp = found
    return app


class WrappedApp:
    """An app behind a limiter.

    Args:
        target: The app.
        fleetlimit: The limiter, opened and closed by whoever serves the front.
        provider: Where traces go; None for nowhere.

    Raises:
        ConfigError: A dependency of the app names a policy that is not there.
    """

    def __init__(
        self, target: ASGIApp, fleetlimit: Fleetlimit, provider: TracerProvider | None = None
    ) -> None:
        self.fleetlimit = fleetlimit
        self.routes: RouteTable
        if isinstance(target, Starlette):
            # Among the app's own middleware, so that tracing and CORS see refusals as well.
            if not has_middleware(target):
                target.add_middleware(RateLimitMiddleware, http_limiter=fleetlimit.http_limiter)
            target.state.fleetlimit_front = fleetlimit
            fleetlimit.install(target)
            self.routes = RouteTable(iter_routes(target.routes))
            self.app: ASGIApp = target
        else:
            self.routes = PolicyRouteTable(fleetlimit.limiter.active_policies)
            fleetlimit.route_reporter.log_routes(self.routes, match_policies=True)
            self.app = RateLimitMiddleware(
                target, http_limiter=fleetlimit.http_limiter, routes=self.routes
            )
        if provider is not None:
            self._trace(target, provider)

    def _trace(self, target: ASGIApp, provider: TracerProvider) -> None:
        if isinstance(target, FastAPI):
            instrument_app(target, provider)
        else:
            self.app = instrument_asgi(self.app, provider, self._span)

    def _span(self, scope: Scope) -> tuple[str, dict[str, str]]:
        """Name a request's span after its route, as FastAPI's are; the path alone is unbounded."""
        method = scope.get("method", WEBSOCKET)
        template = match_route(scope, self.routes).template
        return f"{method} {template}".strip(), {"http.route": template} if template else {}


_ANY_PATH = "{path:path}"


class PolicyRouteTable(RouteTable):
    """Routes of the templates that policies name, for an app whose own are not known.

    Args:
        policies: The policies in force; the routes change with them.
    """

    def __init__(self, policies: ActivePolicies) -> None:
        self._policies = policies
        policies.subscribe(self._rebuild)
        self._rebuild()

    def _rebuild(self) -> None:
        templates = {
            template
            for policy in self._policies.current.policies
            if policy.match is not None
            for template in map(_to_template, policy.match.routes)
            if template.startswith("/")
        }
        # A prefix takes what no template and no longer prefix does.
        ordered = sorted(templates, key=lambda each: (each.endswith(_ANY_PATH), -len(each), each))
        super().__init__(RouteInfo(template) for template in ordered)


def _to_template(route: str) -> str:
    """Return the template of a policy's route; a prefix takes any rest of a path."""
    if not route.endswith("*"):
        return route
    return (route[:-1] or "/") + _ANY_PATH
