"""One request's way through the gate: whoever meets it first decides, the others see it done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from anyio import CancelScope
from starlette.requests import HTTPConnection
from starlette.types import Scope

from headgate.core.errors import CostError
from headgate.core.headers import Headers
from headgate.core.policy import Policy
from headgate.core.subject import NO_HEADERS, UNMATCHED_ROUTE, Subject
from headgate.limiter.reservation import Reservation
from headgate.web.ask import Ask
from headgate.web.gate import Gate
from headgate.web.problem import Refusal, refused, too_costly, unauthorized
from headgate.web.routes import WEBSOCKET, Entry

_KEY = "headgate"


@dataclass(slots=True)
class Visit:
    """A request, and what was decided of it so far.

    Args:
        gate: Decides.
        entry: The route it goes to.
        shows_headers: Whether somebody outside will put the fields on the response.
        reservations: What was decided, in order.
        policies: Names of the policies that were asked.
        holds_leases: Whether something is held for as long as the request lasts.
    """

    gate: Gate
    entry: Entry
    shows_headers: bool = False
    reservations: list[Reservation] = field(default_factory=list)
    policies: dict[str, Reservation] = field(default_factory=dict)
    holds_leases: bool = False

    def fields(self) -> Headers:
        """Return what a response says of all decisions; nothing where none could be made."""
        if not self.reservations:
            return []
        if len(self.reservations) == 1:
            return self.gate.headers(self.reservations[0].decision)
        first, *others = [each.decision for each in self.reservations]
        results = sum((each.results for each in others), first.results)
        return self.gate.headers(first._replace(results=results))

    async def admit(
        self, scope: Scope, asks: Iterable[Ask], *, matched: bool = False
    ) -> Refusal | None:
        """Decide together what was asked, and return the refusal if there is one.

        Args:
            scope: The request.
            asks: Dependencies that ask for policies.
            matched: Whether to ask as well for the policies that match the request.
        """
        identity = await self.gate.identifier.identify(scope)
        wanted: dict[str, tuple[Policy, int]] = {}
        if matched:
            tier = identity.principal.tier if identity.principal else ""
            method = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
            template = self.entry.template or UNMATCHED_ROUTE
            for policy in self.gate.limiter.policies.current.select(method, template, tier):
                wanted[policy.name] = (policy, 1)
        for ask in asks:
            policy = ask.policy(self.gate)
            wanted[policy.name] = (policy, await ask.cost_of(HTTPConnection(scope)))
        subject = Subject(
            identity.client_address,
            identity.principal,
            self.entry.name,
            _headers(scope, wanted.values()),
        )
        try:
            reservation = await self.gate.limiter.admit(list(wanted.values()), subject)
        except CostError as error:
            return too_costly(str(error), self.gate)
        self.reservations.append(reservation)
        self.holds_leases = self.holds_leases or bool(reservation.leases)
        for name in wanted:
            self.policies[name] = reservation
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


def _headers(scope: Scope, wanted: Iterable[tuple[Policy, int]]) -> Mapping[str, str]:
    """Return the headers that the policies' keys are made of; repeated ones as one list."""
    names = {name for policy, _ in wanted if policy.headers for name in policy.headers}
    if not names:
        return NO_HEADERS
    headers = HTTPConnection(scope).headers
    found = {name: headers.getlist(name) for name in names}
    return {name: ", ".join(values) for name, values in found.items() if values}


def visit_of(scope: Scope) -> Visit | None:
    """Return the visit that somebody before us began."""
    visit: Visit | None = scope.get(_KEY)
    return visit


def begin(scope: Scope, gate: Gate, entry: Entry, *, shows_headers: bool = False) -> Visit:
    """Begin the visit of a request."""
    visit = scope[_KEY] = Visit(gate, entry, shows_headers)
    return visit
