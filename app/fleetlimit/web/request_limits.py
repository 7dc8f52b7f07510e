"""Rate-limit state of one request.

The middleware or the first dependency runs the check; later dependencies reuse its result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from anyio import CancelScope
from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.core.decision import Decision
from fleetlimit.core.subject import NO_HEADERS, UNVERIFIED_TIER, Subject
from fleetlimit.errors import CostError
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.exceptions import has_handler
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.ratelimit_headers import RawHeaders
from fleetlimit.web.responses import (
    RejectionResponse,
    cost_too_large_response,
    credential_response,
)
from fleetlimit.web.route_policies import ApplicablePolicies, RateLimitDependency
from fleetlimit.web.route_table import RouteInfo, get_method

REQUEST_LIMITS_KEY: Final = "fleetlimit_request_limits"
"""Name of the state in the ASGI scope; copies of the scope share the state."""
RoutingKey = tuple[str, str | None, str]
"""Path, method and root path of a scope: the app's router selects the route by them."""


class RequestLimits:
    """The decisions about one request under one limiter.

    Args:
        http_limiter: Limiter of the request.
        route: Route of the request.
        app: Starlette app that the request had reached when the first check ran.
        headers_sent_by_middleware: Whether a middleware adds the headers to the response.
        routing_key: Values in the scope that the route was selected by; None after routing, or for
            an app whose router is not watched.
    """

    __slots__ = (
        "app",
        "decision",
        "has_leases",
        "headers_sent_by_middleware",
        "http_limiter",
        "reservation_by_policy",
        "reservations",
        "route",
        "routing_key",
    )

    def __init__(
        self,
        http_limiter: HTTPLimiter,
        route: RouteInfo,
        app: Any,
        *,
        headers_sent_by_middleware: bool,
        routing_key: RoutingKey | None,
    ) -> None:
        self.routing_key = routing_key
        self.http_limiter = http_limiter
        self.route = route
        self.app = app
        self.headers_sent_by_middleware = headers_sent_by_middleware
        # One reservation for each check, in order; each covers several policies.
        self.reservations: list[Reservation] = []
        self.reservation_by_policy: dict[str, Reservation] = {}
        # Decision of the last check; None if that check failed without one.
        self.decision: Decision | None = None
        # Whether concurrency units are held until the request ends.
        self.has_leases = False

    def raw_response_headers(self) -> RawHeaders:
        """Return the limit headers for all decisions; none if no check reached a decision.

        They state the units after the last correction of a cost.
        """
        return raw_headers_of(self.http_limiter, self.reservations)

    async def check(
        self,
        scope: Scope,
        dependencies: Sequence[RateLimitDependency],
        *,
        match_policies: bool = False,
    ) -> RejectionResponse | None:
        """Check all given policies in one decision, and return the rejection if there is one.

        Args:
            scope: ASGI scope of the request.
            dependencies: Dependencies of the route whose policies are checked.
            match_policies: Whether to check the policies whose match includes the request, too.
        """
        http_limiter, route = self.http_limiter, self.route
        identity = await http_limiter.identifier.identify(scope)
        principal = identity.principal
        unverified = identity.error is not None
        applicable = route.policy_cache.get(
            http_limiter,
            dependencies,
            get_method(scope) if match_policies else None,
            route.template,
            principal.tier if principal else UNVERIFIED_TIER if unverified else "",
        )
        key_headers = applicable.key_headers
        headers = join_headers(scope, key_headers) if key_headers else NO_HEADERS
        subject = Subject(identity.client_address, principal, route.name, headers, unverified)
        self.decision = None
        policy_costs = applicable.policy_costs
        try:
            if applicable.cost_functions:
                policy_costs = await self._resolve_costs(applicable, scope)
            reservation = await http_limiter.limiter.admit(policy_costs, subject)
        except CostError as error:
            return cost_too_large_response(str(error), http_limiter.exposed_headers)
        decision = self.decision = reservation.decision
        self.reservations.append(reservation)
        if reservation.holds_leases:
            self.has_leases = True
        for name in applicable.names:
            self.reservation_by_policy[name] = reservation
        if not decision.allowed:
            return http_limiter.rejection_response(decision)
        if identity.error is not None and http_limiter.reject_invalid:
            return credential_response(identity.error, http_limiter.exposed_headers)
        return None

    async def _resolve_costs(
        self, applicable: ApplicablePolicies, scope: Scope
    ) -> list[PolicyCost]:
        """Return the costs, and log a failure that the app has no handler for."""
        try:
            return await applicable.resolve_costs(scope, self.http_limiter.function_timeout_s)
        except Exception as error:
            if not has_handler(self.route.mounted_app or scope.get("app"), error):
                self.http_limiter.failure_log.write("cost.failed", error)
            raise

    async def release_leases(self) -> None:
        """Return the concurrency units that the request held."""
        # Shielded: in a cancelled request every await would raise before the units are returned.
        with CancelScope(shield=True):
            for reservation in self.reservations:
                await reservation.release()


def raw_headers_of(http_limiter: HTTPLimiter, reservations: Sequence[Reservation]) -> RawHeaders:
    """Return the limit headers for the decisions of all reservations; none without any."""
    if not reservations:
        return []
    if len(reservations) == 1:
        return http_limiter.raw_response_headers(reservations[0].decision)
    first, *others = [each.decision for each in reservations]
    results = sum((each.results for each in others), first.results)
    return http_limiter.raw_response_headers(replace(first, results=results))


def join_headers(scope: Scope, names: Iterable[str]) -> Mapping[str, str]:
    """Return the request headers of these names; a repeated header as one list."""
    headers = HTTPConnection(scope).headers
    found = {name: headers.getlist(name) for name in names}
    return {name: ", ".join(values) for name, values in found.items() if values}


def get_request_limits(scope: Scope) -> RequestLimits | None:
    """Return the state that the middleware or an earlier dependency started."""
    request_limits: RequestLimits | None = scope.get(REQUEST_LIMITS_KEY)
    return request_limits


def start_request_limits(
    scope: Scope,
    http_limiter: HTTPLimiter,
    route: RouteInfo,
    *,
    headers_sent_by_middleware: bool = False,
    routing_key: RoutingKey | None = None,
) -> RequestLimits:
    """Start the state of a request and put it into the scope."""
    request_limits = scope[REQUEST_LIMITS_KEY] = RequestLimits(
        http_limiter,
        route,
        scope.get("app"),
        headers_sent_by_middleware=headers_sent_by_middleware,
        routing_key=routing_key,
    )
    return request_limits
