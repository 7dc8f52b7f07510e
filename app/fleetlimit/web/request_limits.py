"""One request's way through the gate: whoever meets it first decides, the others see it done."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from anyio import CancelScope
from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.core.subject import NO_HEADERS, Subject
from fleetlimit.errors import CostError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.ratelimit_headers import RawHeaders
from fleetlimit.web.responses import (
    RejectionResponse,
    cost_too_large_response,
    unauthorized_response,
)
from fleetlimit.web.route_policies import UNASKED, RateLimitDependency
from fleetlimit.web.route_table import RouteInfo, get_method

_KEY = "fleetlimit"


class RequestLimits:
    """A request, and what was decided of it so far.

    Args:
        http_limiter: Decides.
        route: The route it goes to.
        headers_sent_by_middleware: Whether somebody outside will put the fields on the response.
    """

    __slots__ = (
        "_response_headers",
        "has_leases",
        "headers_sent_by_middleware",
        "http_limiter",
        "reservation_by_policy",
        "reservations",
        "route",
    )

    def __init__(
        self, http_limiter: HTTPLimiter, route: RouteInfo, *, headers_sent_by_middleware: bool
    ) -> None:
        self.http_limiter = http_limiter
        self.route = route
        self.headers_sent_by_middleware = headers_sent_by_middleware
        # What was decided, in order, and for each policy that was asked.
        self.reservations: list[Reservation] = []
        self.reservation_by_policy: dict[str, Reservation] = {}
        self._response_headers: RawHeaders | None = None
        # For as long as the request lasts.
        self.has_leases = False

    def response_headers(self) -> RawHeaders:
        """Return what a response says of all decisions; nothing where none could be made."""
        if self._response_headers is None:
            self._response_headers = self._build_headers()
        return self._response_headers

    def _build_headers(self) -> RawHeaders:
        if not self.reservations:
            return []
        if len(self.reservations) == 1:
            return self.http_limiter.raw_response_headers(self.reservations[0].decision)
        first, *others = [each.decision for each in self.reservations]
        results = sum((each.results for each in others), first.results)
        return self.http_limiter.raw_response_headers(replace(first, results=results))

    async def check(
        self,
        scope: Scope,
        dependencies: Sequence[RateLimitDependency],
        *,
        match_policies: bool = False,
    ) -> RejectionResponse | None:
        """Decide together what was asked, and return the refusal if there is one.

        Args:
            scope: The request.
            dependencies: Dependencies that ask for policies.
            match_policies: Whether to ask as well for the policies that match the request.
        """
        http_limiter, route = self.http_limiter, self.route
        identity = await http_limiter.identifier.identify(scope)
        principal, error = identity.principal, identity.error
        tier = principal.tier if principal else ""
        method = get_method(scope) if match_policies else UNASKED
        applicable = route.policy_cache.get(
            http_limiter, dependencies, method, route.template, tier
        )
        policy_costs = (
            await applicable.resolve_costs(scope)
            if applicable.cost_functions
            else applicable.policy_costs
        )
        headers = (
            _key_headers(scope, applicable.key_headers) if applicable.key_headers else NO_HEADERS
        )
        subject = Subject(identity.client_address, principal, route.name, headers)
        try:
            reservation = await http_limiter.limiter.admit(policy_costs, subject)
        except CostError as fault:
            return cost_too_large_response(str(fault), http_limiter.exposed_headers)
        self.reservations.append(reservation)
        self._response_headers = None
        if reservation.leases:
            self.has_leases = True
        for name in applicable.names:
            self.reservation_by_policy[name] = reservation
        if not reservation.decision.allowed:
            return http_limiter.rejection_response(reservation.decision)
        if error is not None and http_limiter.reject_invalid:
            return unauthorized_response(error, http_limiter.exposed_headers)
        return None

    async def release_leases(self) -> None:
        """Give back what was held for as long as the request lasted."""
        # Also when the request is cancelled, and each await in it raises.
        with CancelScope(shield=True):
            for reservation in self.reservations:
                await reservation.release()


def _key_headers(scope: Scope, names: Iterable[str]) -> Mapping[str, str]:
    """Return the headers that the policies' keys are made of; repeated ones as one list."""
    headers = HTTPConnection(scope).headers
    found = {name: headers.getlist(name) for name in names}
    return {name: ", ".join(values) for name, values in found.items() if values}


def get_request_limits(scope: Scope) -> RequestLimits | None:
    """Return the visit that somebody before us began."""
    request_limits: RequestLimits | None = scope.get(_KEY)
    return request_limits


def start_request_limits(
    scope: Scope,
    http_limiter: HTTPLimiter,
    route: RouteInfo,
    *,
    headers_sent_by_middleware: bool = False,
) -> RequestLimits:
    """Begin the visit of a request."""
    request_limits = scope[_KEY] = RequestLimits(
        http_limiter, route, headers_sent_by_middleware=headers_sent_by_middleware
    )
    return request_limits
