"""One request's way through the gate: whoever meets it first decides, the others see it done."""

from collections.abc import Iterable, Mapping, Sequence

from anyio import CancelScope
from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.core.made import made
from fleetlimit.core.subject import NO_HEADERS, Subject
from fleetlimit.errors import CostError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.http_limiter import Gate
from fleetlimit.web.ratelimit_headers import RawHeaders
from fleetlimit.web.responses import Refusal, too_costly, unauthorized
from fleetlimit.web.route_policies import UNASKED, Ask
from fleetlimit.web.route_table import Entry, method_of

_KEY = "fleetlimit"


class Visit:
    """A request, and what was decided of it so far.

    Args:
        gate: Decides.
        entry: The route it goes to.
        shows_headers: Whether somebody outside will put the fields on the response.
    """

    __slots__ = (
        "_fields",
        "entry",
        "gate",
        "holds_leases",
        "policies",
        "reservations",
        "shows_headers",
    )

    def __init__(self, gate: Gate, entry: Entry, *, shows_headers: bool) -> None:
        self.gate = gate
        self.entry = entry
        self.shows_headers = shows_headers
        # What was decided, in order, and for each policy that was asked.
        self.reservations: list[Reservation] = []
        self.policies: dict[str, Reservation] = {}
        self._fields: RawHeaders | None = None
        # For as long as the request lasts.
        self.holds_leases = False

    def fields(self) -> RawHeaders:
        """Return what a response says of all decisions; nothing where none could be made."""
        if self._fields is None:
            self._fields = self._told()
        return self._fields

    def _told(self) -> RawHeaders:
        if not self.reservations:
            return []
        if len(self.reservations) == 1:
            return self.gate.fields(self.reservations[0].decision)
        first, *others = [each.decision for each in self.reservations]
        results = sum((each.results for each in others), first.results)
        return self.gate.fields(first._replace(results=results))

    async def admit(
        self, scope: Scope, asks: Sequence[Ask], *, matched: bool = False
    ) -> Refusal | None:
        """Decide together what was asked, and return the refusal if there is one.

        Args:
            scope: The request.
            asks: Dependencies that ask for policies.
            matched: Whether to ask as well for the policies that match the request.
        """
        gate, entry = self.gate, self.entry
        address, principal, error = await gate.identifier.identify(scope)
        tier = principal.tier if principal else ""
        method = method_of(scope) if matched else UNASKED
        wanted = entry.wants.find(gate, asks, method, entry.template, tier)
        pairs = await wanted.priced(scope) if wanted.told else wanted.pairs
        headers = _headers(scope, wanted.headers) if wanted.headers else NO_HEADERS
        subject = made(Subject, (address, principal, entry.name, headers))
        try:
            reservation = await gate.limiter.admit(pairs, subject)
        except CostError as fault:
            return too_costly(str(fault), gate.exposed)
        self.reservations.append(reservation)
        self._fields = None
        if reservation.leases:
            self.holds_leases = True
        for name in wanted.names:
            self.policies[name] = reservation
        if not reservation.decision.allowed:
            return gate.refusal(reservation.decision)
        if error is not None and gate.reject_invalid:
            return unauthorized(error, gate.exposed)
        return None

    async def leave(self) -> None:
        """Give back what was held for as long as the request lasted."""
        # Also when the request is cancelled, and each await in it raises.
        with CancelScope(shield=True):
            for reservation in self.reservations:
                await reservation.release()


def _headers(scope: Scope, names: Iterable[str]) -> Mapping[str, str]:
    """Return the headers that the policies' keys are made of; repeated ones as one list."""
    headers = HTTPConnection(scope).headers
    found = {name: headers.getlist(name) for name in names}
    return {name: ", ".join(values) for name, values in found.items() if values}


def visit_of(scope: Scope) -> Visit | None:
    """Return the visit that somebody before us began."""
    visit: Visit | None = scope.get(_KEY)
    return visit


def begin(scope: Scope, gate: Gate, entry: Entry, *, shows_headers: bool = False) -> Visit:
    """Begin the visit of a request."""
    visit = scope[_KEY] = Visit(gate, entry, shows_headers=shows_headers)
    return visit
