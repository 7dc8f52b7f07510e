"""Rate-limit state of one request.

The middleware or the first dependency runs the check; later dependencies reuse its result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from anyio import CancelScope
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope

from fleetlimit.core.decision import Decision
from fleetlimit.core.subject import NO_HEADERS, UNVERIFIED_TIER, Identity, KeyValues, Subject
from fleetlimit.errors import ConfigError, CostError
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.app_routes import get_method
from fleetlimit.web.exceptions import RejectionContext, has_handler
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.path_values import with_path_params
from fleetlimit.web.ratelimit_headers import RawHeaders
from fleetlimit.web.request_maximum import RequestBody
from fleetlimit.web.request_values import KeySources
from fleetlimit.web.responses import (
    RejectionResponse,
    cost_too_large_response,
    credential_response,
)
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import ApplicablePolicies, RateLimitDependency
from fleetlimit.web.settlement import ADD_MIDDLEWARE, SettledCost, Settlement, spent_costs

REJECTION_SENDER_KEY: Final = "fleetlimit_rejection_sender"
"""Name in the ASGI scope of a pair: the limiter of a middleware that has something of its own for
rejections, and the function that completes the limiter's `RejectionSender` by it."""
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
        "dependency_calls",
        "has_leases",
        "headers_sent_by_middleware",
        "http_limiter",
        "identity",
        "receive",
        "reservation_by_policy",
        "reservations",
        "route",
        "routing_key",
        "settlement",
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
        # Names of the policies of the dependencies that were called, in order.
        self.dependency_calls: list[str] = []
        # The caller as the last check has identified it; None before.
        self.identity: Identity | None = None
        # Decision of the last check; None if that check failed without one.
        self.decision: Decision | None = None
        # Whether concurrency units are held until the request ends.
        self.has_leases = False
        # Replacement of the server's `receive`; None while the request was not read.
        self.receive: Receive | None = None
        # Costs that the response corrects; None without any.
        self.settlement: Settlement | None = None

    def rejection_context(self, scope: Scope) -> RejectionContext | None:
        """Return what the app has for rejections; None if it has nothing."""
        http_limiter = self.http_limiter
        sender = http_limiter.rejection_sender
        owner, complete = scope.get(REJECTION_SENDER_KEY, (None, None))
        if owner is http_limiter:
            sender = complete(sender)
        if not sender.is_needed:
            return None
        return RejectionContext(
            sender,
            http_limiter.function_timeout_s,
            http_limiter.failure_log,
            (self.route.mounted_app, scope.get("app")),
            self.raw_response_headers(),
        )

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
        receive: Receive | None = None,
    ) -> RejectionResponse | None:
        """Check all given policies in one decision, and return the rejection if there is one.

        Args:
            scope: ASGI scope of the request.
            dependencies: Dependencies of the route whose policies are checked.
            match_policies: Whether to check the policies whose match includes the request, too.
            receive: The server's `receive`, for the estimate of a cost that the answer states.
                Afterwards the app needs `self.receive` in its place, if there is one.
        """
        http_limiter, route = self.http_limiter, self.route
        identity = self.identity = await http_limiter.identifier.identify(scope)
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
        policy_costs: Sequence[PolicyCost] = applicable.policy_costs
        if applicable.needs_request:
            policy_costs = await self._resolve_policies(applicable, subject, scope)
        settled = applicable.settled
        try:
            if applicable.cost_functions:
                policy_costs = await self._resolve_costs(applicable, policy_costs, scope)
            if settled:
                policy_costs = await self._estimate_costs(settled, policy_costs, scope, receive)
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
        if settled and (spent := spent_costs(settled, decision)):
            self.settlement = self.settlement or Settlement(http_limiter.limiter.emit)
            self.settlement.add(reservation, spent)
        if identity.error is not None and http_limiter.reject_invalid:
            return credential_response(identity.error, http_limiter.exposed_headers)
        return None

    async def _resolve_policies(
        self, applicable: ApplicablePolicies, subject: Subject, scope: Scope
    ) -> Sequence[PolicyCost]:
        """Return the policies with marks of exemptions, and set the subject's values for keys."""
        policy_costs: Sequence[PolicyCost] = applicable.policy_costs
        scope = with_path_params(scope, self.route)
        if applicable.exemptions is not None:
            policy_costs = await applicable.exemptions.apply(
                policy_costs, subject, scope, self.http_limiter
            )
        sources = applicable.key_sources_of(policy_costs)
        if applicable.limit_functions is not None:
            policy_costs = await applicable.limit_functions.apply(
                policy_costs, scope, self.http_limiter
            )
        if sources is not None:
            subject.key_values = await self.resolve_keys(sources, scope)
        return policy_costs

    async def resolve_keys(self, sources: KeySources, scope: Scope) -> KeyValues:
        """Return the values for keys, and log a failure that the app has no handler for."""
        timeout_s = self.http_limiter.function_timeout_s
        try:
            return await sources.resolve(scope, self.route, timeout_s)
        except Exception as error:
            self._log_unhandled("key.failed", error, scope)
            raise

    async def _resolve_costs(
        self, applicable: ApplicablePolicies, policy_costs: Sequence[PolicyCost], scope: Scope
    ) -> list[PolicyCost]:
        """Return the costs, and log a failure that the app has no handler for."""
        timeout_s = self.http_limiter.function_timeout_s
        try:
            function_scope = with_path_params(scope, self.route)
            return await applicable.resolve_costs(policy_costs, function_scope, timeout_s)
        except Exception as error:
            self._log_unhandled("cost.failed", error, scope)
            raise

    def _log_unhandled(self, event: str, error: Exception, scope: Scope) -> None:
        if not has_handler(self.route.mounted_app or scope.get("app"), error):
            self.http_limiter.failure_log.write(event, error)

    async def _estimate_costs(
        self,
        settled: Sequence[SettledCost],
        policy_costs: Sequence[PolicyCost],
        scope: Scope,
        receive: Receive | None,
    ) -> list[PolicyCost]:
        """Return the costs, with an estimate of each that the answer states.

        Raises:
            ConfigError: No middleware receives the response that corrects them.
        """
        if not self.headers_sent_by_middleware:
            raise ConfigError(
                f"policy {settled[0].policy.name} {settled[0].reason}, which a dependency does not "
                f"see: {ADD_MIDDLEWARE}"
            )
        estimated = [*policy_costs]
        body: RequestBody | None = None
        for each in settled:
            if each.usage is not None:
                stated: int | None = None
                if receive is not None:
                    body = body or RequestBody(scope, receive)
                    stated = await body.stated_maximum(each.usage)
                    self.receive = body.receive
                cost = each.usage.estimated(stated)
                estimated[each.index] = replace(estimated[each.index], cost=cost, is_estimate=True)
        return estimated

    async def end(self, error: BaseException | None) -> None:
        """Correct the costs that are not corrected yet, and return the concurrency units.

        Args:
            error: Exception that the app has raised.
        """
        if self.settlement is not None:
            await self.settlement.end(error)
        await self.release_leases()

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
    decisions = [each.decision for each in reservations]
    # A policy that was checked again by hand has the status of its last check.
    results = {each.policy: each for decision in decisions for each in decision.results}
    return http_limiter.raw_response_headers(replace(decisions[0], results=tuple(results.values())))


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
