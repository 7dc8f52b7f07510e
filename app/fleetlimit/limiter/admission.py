"""Deciding one plan: by what is known to be refused, by the shared store, or without it."""

from collections.abc import Callable
from typing import Final

from fleetlimit.core.decision import DENIED, EXEMPT, Decision, Source
from fleetlimit.core.made import made
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import Subject
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import Sample
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.events import Decided, Event
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.membership import Census
from fleetlimit.limiter.plan import Plan, decision_of
from fleetlimit.limiter.ports import Clock, Taken
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import Till

_STORE: Final = Source.STORE


class Admission:
    """Decides plans, and tells of every decision.

    Args:
        till: Spends from the shared store.
        denials: What is known to refuse.
        fallback: Decides while the store is away.
        census: Knows how many replicas share a limit then.
        sample: Is told of what the store let in.
        clock: The process's own time.
        tell: Hears of every decision.
    """

    def __init__(
        self,
        till: Till,
        *,
        denials: DenialCache,
        fallback: Fallback,
        census: Census,
        sample: Sample,
        clock: Clock,
        tell: Callable[[Event], None],
    ) -> None:
        self._till = till
        self._denials = denials
        self._fallback = fallback
        self._census = census
        self._sample = sample
        self._clock = clock
        self._tell = tell

    async def decide(self, plan: Plan, subject: Subject, started_us: int) -> Reservation:
        """Decide a plan, and emit the decision.

        Args:
            plan: The charges of the check.
            subject: The caller and the route.
            started_us: Monotonic microseconds when the check began.
        """
        reservation = self._unasked(plan, started_us)
        if reservation is None:
            try:
                taken = await self._till.take(plan)
            except StoreError:
                reservation = await self._fallback.decide(plan, self._census.replicas)
            else:
                reservation = self._asked(plan, taken)
        seconds = (self._clock.now_us() - started_us) / SECOND_US
        decision, anonymous = reservation.decision, subject.principal is None
        fields = (decision, plan.caller, anonymous, subject.tier, subject.route, seconds)
        self._tell(made(Decided, fields))
        return reservation

    def _unasked(self, plan: Plan, now_us: int) -> Reservation | None:
        """Decide without the store, if that is possible."""
        decision = self._denials.decide(plan, now_us) if plan.charges else without_charges(plan)
        return None if decision is None else Reservation(decision, plan, 0, self._till.settle)

    def _asked(self, plan: Plan, taken: Taken) -> Reservation:
        """Decide by the store's reply."""
        self._sample.decided(plan, taken)
        decision = decision_of(plan, taken.verdicts, source=_STORE, spent=taken.spent)
        if decision.outcome is DENIED:
            for charge, verdict in zip(plan.charges, taken.verdicts, strict=True):
                if charge.group == 0 and not verdict.fits:
                    self._denials.remember(charge, verdict)
        return self._till.hold(plan, decision, taken.now_us)


def without_charges(plan: Plan) -> Decision:
    """Decide where there is nothing to ask the store: no policy, or only impossible shadows."""
    return decision_of(plan, (), source=Source.NONE, spent=False) if plan.parts else EXEMPT
