"""Caller of a connection, whose checks an endpoint makes by hand: `caller: DepCaller`.

A WebSocket is one request for the middleware and for `Depends(RateLimit(...))`. `await
caller.check("chat")` spends for each of its messages.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated
from weakref import ref

from fastapi import Depends, Response
from starlette.requests import HTTPConnection

from fleetlimit.core.decision import Decision
from fleetlimit.core.quota import check_cost
from fleetlimit.core.subject import NO_HEADERS, Identity, Principal, Subject
from fleetlimit.errors import CostError
from fleetlimit.limiter.app_function import call_function
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.limiter.policy_costs import CheckCost
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency_check import enter_app, write_headers
from fleetlimit.web.exceptions import RequestRejected, make_exception
from fleetlimit.web.exemptions import Exemptions
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.job_subject import CallerArguments, to_key, to_principal
from fleetlimit.web.limit_functions import LimitFunctions
from fleetlimit.web.manual_checks import ManualCheck, PolicyRef, policy_cost, require_policies
from fleetlimit.web.manual_limiter import ManualLimiter
from fleetlimit.web.request_limits import RequestLimits, get_request_limits, join_headers
from fleetlimit.web.request_values import KeySources
from fleetlimit.web.responses import (
    RejectionResponse,
    cost_too_large_response,
    credential_response,
)
from fleetlimit.web.route_policies import RateLimitDependency


class ConnectionLimiter(ManualLimiter):
    """Limiter of the app that a connection reached; code names the caller.

    Args:
        connection: The request or WebSocket.
        request_limits: Limits of the request under the app that it reached.
        response: Response whose headers FastAPI copies to the final one.
    """

    def __init__(
        self, connection: HTTPConnection, request_limits: RequestLimits, response: Response
    ) -> None:
        self._connection = connection
        self._request_limits = request_limits
        self._response = response
        self._shown: dict[tuple[str, ...], Reservation] = {}

    def _running_limiter(self) -> HTTPLimiter:
        return self._request_limits.http_limiter

    def _rejection(self, check: ManualCheck, decision: Decision) -> RequestRejected:
        response = check.http_limiter.rejection_response(decision)
        return self._make_exception(response, decision)

    def _make_exception(
        self, response: RejectionResponse, decision: Decision | None
    ) -> RequestRejected:
        """Return the exception for a rejection, which the app answers in its own format."""
        context = self._request_limits.rejection_context(self._connection.scope)
        return make_exception(response, decision, self._connection, context)

    async def _admit(self, check: ManualCheck) -> Reservation:
        try:
            return await super()._admit(check)
        except CostError as error:
            response = cost_too_large_response(str(error), check.http_limiter.exposed_headers)
            raise self._make_exception(response, None) from error

    async def _require_admitted(self, check: ManualCheck, reservation: Reservation) -> Reservation:
        await super()._require_admitted(check, reservation)
        self._show(reservation)
        return reservation

    def _show(self, reservation: Reservation) -> None:
        """Add the limits of a check to the headers of the response.

        A later check of the same policies replaces it, so that an endpoint may make many.
        """
        if self._connection.scope["type"] != "http" or reservation.holds_leases:
            return
        request_limits = self._request_limits
        names = tuple([each.policy for each in reservation.decision.results])
        earlier = self._shown.get(names)
        if earlier is not None:
            request_limits.reservations.remove(earlier)
        self._shown[names] = reservation
        request_limits.reservations.append(reservation)
        if not request_limits.headers_sent_by_middleware:
            reservations = [ref(each) for each in request_limits.reservations]
            write = partial(
                write_headers, self._response, request_limits.http_limiter, reservations
            )
            write()
            for each in request_limits.reservations:
                each.on_corrected = write


class Caller(ConnectionLimiter):
    """The caller of a connection, and the checks that an endpoint makes for it.

    Without arguments a check is one of this caller; `principal=` names another one. A connection is
    identified once, so the caller of a WebSocket is that of its handshake.

    Args:
        connection: The request or WebSocket.
        request_limits: Limits of the request under the app that it reached.
        response: Response whose headers FastAPI copies to the final one.
        identity: Identity of the client.
    """

    _PARAMETER = "caller: DepCaller"

    def __init__(
        self,
        connection: HTTPConnection,
        request_limits: RequestLimits,
        response: Response,
        identity: Identity,
    ) -> None:
        super().__init__(connection, request_limits, response)
        self._identity = identity

    def __repr__(self) -> str:
        return f"Caller(principal={self.principal!r}, client_address={self.client_address!r})"

    @property
    def principal(self) -> Principal | None:
        """The verified caller; None for a client without a valid credential."""
        return self._identity.principal

    @property
    def client_address(self) -> str:
        """Address of the client."""
        return self._identity.client_address

    @property
    def tier(self) -> str:
        """Tier of the verified caller; empty for none."""
        return self.principal.tier if self.principal is not None else ""

    async def _prepare(
        self, policies: Sequence[PolicyRef], arguments: CallerArguments, cost: CheckCost
    ) -> ManualCheck:
        """Return the check that the arguments describe, by default one of this caller."""
        if arguments.subject is not None or (arguments.principal is None and arguments.tier):
            return await super()._prepare(policies, arguments, cost)
        http_limiter = self._running_limiter()
        policies = require_policies(policies, cost)
        costs = [await self._cost(http_limiter, each, cost) for each in policies]
        found = [each.policy for each in costs]
        scope = self._connection.scope
        names = frozenset().union(*(each.key_headers for each in found))
        subject = Subject(
            self.client_address,
            self.principal,
            self._request_limits.route.name,
            join_headers(scope, names) if names else NO_HEADERS,
            self._identity.error is not None,
            key=to_key(arguments.key),
        )
        if arguments.principal is not None:
            subject.principal = to_principal(arguments.principal, arguments.tier)
            subject.unverified = False
        exemptions = Exemptions.of(found, http_limiter)
        if exemptions is not None:
            costs = [*await exemptions.apply(costs, subject, scope, http_limiter)]
        functions = LimitFunctions.of(found)
        if functions is not None:
            costs = [*await functions.apply(costs, scope, http_limiter)]
        limiting = [each.policy for each in costs if not each.exempt]
        if subject.key is None and (sources := KeySources.of(limiting)) is not None:
            subject.key_values = await self._request_limits.resolve_keys(sources, scope)
        return ManualCheck(http_limiter, policies, costs, subject)

    async def _cost(
        self, http_limiter: HTTPLimiter, policy: PolicyRef, cost: CheckCost
    ) -> PolicyCost:
        """Return a policy with its cost, which a limit may compute from the connection."""
        if cost is None and isinstance(policy, RateLimitDependency) and callable(policy.cost):
            timeout_s = http_limiter.function_timeout_s
            cost = check_cost(
                await call_function(policy.cost, self._connection, "cost function", timeout_s)
            )
        return policy_cost(http_limiter, policy, cost)

    async def _require_admitted(self, check: ManualCheck, reservation: Reservation) -> Reservation:
        await super()._require_admitted(check, reservation)
        error = self._identity.error
        if error is not None and check.subject.unverified and check.http_limiter.reject_invalid:
            await reservation.release()
            response = credential_response(error, check.http_limiter.exposed_headers)
            raise self._make_exception(response, reservation.decision)
        return reservation


async def get_connection_limiter(
    connection: HTTPConnection, response: Response
) -> ConnectionLimiter:
    """Return the limiter of the app that a connection reached; a FastAPI dependency.

    Raises:
        ConfigError: The app has a `Fleetlimit` that was not started.
    """
    return ConnectionLimiter(connection, _request_limits(connection), response)


async def get_caller(connection: HTTPConnection, response: Response) -> Caller:
    """Return the caller of a connection, to make checks by hand; a FastAPI dependency.

    Raises:
        ConfigError: The app has a `Fleetlimit` that was not started.
    """
    request_limits = _request_limits(connection)
    identity = request_limits.identity
    if identity is None or identity.principal is None:
        # A middleware behind the limiter may have authenticated the client meanwhile.
        identity = await request_limits.http_limiter.identifier.identify(connection.scope)
    return Caller(connection, request_limits, response, identity)


def _request_limits(connection: HTTPConnection) -> RequestLimits:
    request_limits = get_request_limits(connection.scope)
    if request_limits is None or request_limits.app is not connection.scope["app"]:
        return enter_app(connection, request_limits)
    return request_limits


DepCaller = Annotated[Caller, Depends(get_caller)]
"""Parameter of an endpoint: the caller of the connection, whose checks are made by hand."""
DepLimiter = Annotated[ManualLimiter, Depends(get_connection_limiter)]
"""Parameter of an endpoint: the app's limiter, whose checks name their caller."""
