"""One request's way through the gate: whoever meets it first decides, the others see it done."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from anyio import CancelScope
from starlette.requests import HTTPConnection
from starlette.types import Scope

from headgate.core.errors import CostError
from headgate.core.headers import Headers
from headgate.core.policy import Policy
from headgate.core.subject import UNMATCHED_ROUTE, Subject
from headgate.limiter.reservation import Reservation
from headgate.web.gate import Gate
from headgate.web.problem import Refusal, refused, too_costly, unauthorized
from headgate.web.routes import WEBSOCKET, Entry

_KEY = "headgate"


class Ask(Protocol):
    """What asks for a policy at a cost: a dependency of the route."""

    def policy(self, gate: Gate) -> Policy:
        """Return the policy that is asked for."""
        ...

    async def cost_of(self, connection: HTTPConnection) -> int:
        """Return what the request costs under it."""
        ...


@dataclass(slots=True)
class Visit:
    """A request, and what was decided of it so far.

    Args:
        gate: Decides.
        entry: The route it goes to.
        shows_headers: Whether somebody outside will put the fields on the response.
        reservations: What was decided, in order.
        policies: Names of the policies that were asked.
    """

    gate: Gate
    entry: Entry
    shows_headers: bool = False
    reservations: list[Reservation] = field(default_factory=list)
    policies: dict[str, Reservation] = field(default_factory=dict)

    def fields(self) -> Headers:
        """Return what a response says of all decisions; nothing where none could be made."""
        if not self.reservations:
            return []
        first, *others = [each.decision for each in self.reservations]
        results = sum((each.results for each in others), first.results)
        return self.gate.headers(replace(first, results=results))

    async def admit(
        self, scope: Scope, asks: Iterable[Ask], *, matched: bool = False
    ) -> Refusal | None:
        """Decide together what was asked, and return the refusal if there is one.

        Args:
            scope: The request.
            asks: Dependencies that ask for policies.
            matched: Whether to ask as well for the policies that match the request.
        """
        connection = HTTPConnection(scope)
        identity = await self.gate.identifier.identify(scope)
        tier = identity.principal.tier if identity.principal else ""
        wanted = {}
        if matched:
            method = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
            template = self.entry.template or UNMATCHED_ROUTE
            found = self.gate.limiter.policies.current.select(method, template, tier)
            wanted = {policy.name: (policy, 1) for policy in found}
        for ask in asks:
            policy = ask.policy(self.gate)
            wanted[policy.name] = (policy, await ask.cost_of(connection))
        subject = Subject(
            identity.client_address,
            identity.principal,
            self.entry.name,
            _headers(connection, [policy for policy, _ in wanted.values()]),
        )
        try:
            reservation = await self.gate.limiter.admit(list(wanted.values()), subject)
        except CostError as error:
            return too_costly(str(error), self.gate)
        self.reservations.append(reservation)
        self.policies.update(dict.fromkeys(wanted, reservation))
        if not reservation.decision.allowed:
            return refused(reservation.decision, self.gate)
        if identity.error is not None and self.gate.reject_invalid:
            return unauthorized(identity, self.gate)
        return None

    async def leave(self) -> None:
        """Give back what was held for as long as the request lasted."""
        # Also when the request is cancelled, and each await in it raises.
        with CancelScope(shield=True):
            for reservation in self.reservations:
                await reservation.release()


def _headers(connection: HTTPConnection, policies: Sequence[Policy]) -> dict[str, str]:
    """Return the headers that the policies' keys are made of; repeated ones as one list."""
    names = frozenset[str]().union(*(policy.headers for policy in policies))
    found = {name: connection.headers.getlist(name) for name in names}
    return {name: ", ".join(values) for name, values in found.items() if values}


def visit_of(scope: Scope) -> Visit | None:
    """Return the visit that somebody before us began."""
    visit: Visit | None = scope.get(_KEY)
    return visit


def begin(scope: Scope, gate: Gate, entry: Entry, *, shows_headers: bool = False) -> Visit:
    """Begin the visit of a request."""
    visit = scope[_KEY] = Visit(gate, entry, shows_headers)
    return visit
