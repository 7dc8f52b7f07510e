"""Installation of a limiter on apps: their requests, OpenAPI schemas and route reports."""

from typing import Any

from starlette.applications import Starlette

from fleetlimit.bootstrap.app_middlewares import answers_rejections, warn_of_middlewares
from fleetlimit.bootstrap.policy_reload import PolicyReload
from fleetlimit.bootstrap.route_report import RouteReporter
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.web import wiring
from fleetlimit.web.app_routes import get_app_route_table
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.openapi import LimitSource, document_app
from fleetlimit.web.rewrite_detector import watch_routers


class AppInstallation:
    """What a limiter does with each app that it limits.

    Args:
        http_limiter: The limiter.
        policy_reload: Its policies, which a schema may state before they are active.
        route_reporter: Reports the routes of the apps.
        log: Structured logger.
        openapi: Whether the OpenAPI schemas of the apps state the limits of each route.
    """

    def __init__(
        self,
        http_limiter: HTTPLimiter,
        policy_reload: PolicyReload,
        route_reporter: RouteReporter,
        log: Any,
        *,
        openapi: bool,
    ) -> None:
        self.openapi = openapi
        self.http_limiter = http_limiter
        self._policy_reload = policy_reload
        self._route_reporter = route_reporter
        self._log = log

    def install(self, app: Starlette, *, match_policies: bool) -> None:
        """Limit an app and its mounted apps, and log each route's policies.

        Args:
            app: The app.
            match_policies: Whether a middleware applies policies by their match.

        Raises:
            ConfigError: A dependency names a policy that does not exist.
        """
        wiring.install(app, self.http_limiter)
        self.document(app, match_policies=match_policies)
        warn_of_middlewares(
            app, self._log, self.http_limiter.rejection_sender, match_policies=match_policies
        )
        if match_policies:
            watch_routers(app)
        self._route_reporter.log_routes(
            get_app_route_table(app.router), match_policies=match_policies
        )

    def document(self, app: Starlette, *, match_policies: bool) -> None:
        """State the limits in the OpenAPI schemas of an app and of its mounted apps.

        Arguments are those of `install`.
        """
        if not self.openapi:
            return
        source = LimitSource(
            self.http_limiter,
            self._current_policies,
            match_policies,
            lambda: answers_rejections(app, self.http_limiter.rejection_sender),
        )
        document_app(app, source)

    def _current_policies(self) -> PolicySet:
        """Return the active policies, or before the start those that will be active."""
        current = self.http_limiter.limiter.active_policies.current
        return current if current.policies else self._policy_reload.policy_file.policy_set
