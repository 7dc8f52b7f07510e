"""Deciding one plan: by what is known to be refused, by the shared store, or without it."""

from collections.abc import Callable
from typing import Final

from headgate.core.decision import EXEMPT, Decision, Source
from headgate.core.errors import StoreError
from headgate.core.made import made
from headgate.core.quota import SECOND_US
from headgate.core.subject import Subject
from headgate.limiter.census import Census
from headgate.limiter.denials import DenialCache
from headgate.limiter.events import Decided, Event
from headgate.limiter.fallback import Fallback
from headgate.limiter.plan import Plan
from headgate.limiter.ports import Clock, Taken
from headgate.limiter.reservation import Reservation
from headgate.limiter.sample import Sample
from headgate.limiter.till import Till
from headgate.limiter.verdict import decision_of

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
        """Decide a plan.

        Args:
            plan: What a check asks.
            subject: Who and what is asking.
            started_us: When it began to, by the clock.
        """
        reservation = self._unasked(plan)
        if reservation is None:
            try:
                taken = await self._till.take(plan)
            except StoreError:
                reservation = await self._fallback.decide(plan, self._census.replicas)
            else:
                reservation = self._taken(plan, taken)
        seconds = (self._clock.now_us() - started_us) / SECOND_US
        decision, anonymous = reservation.decision, subject.principal is None
        fields = (decision, plan.caller, anonymous, subject.tier, subject.route, seconds)
        self._tell(made(Decided, fields))
        return reservation

    def _unasked(self, plan: Plan) -> Reservation | None:
        """Decide where the store need not be asked."""
        decision = self._denials.decide(plan) if plan.charges else without_charges(plan)
        return None if decision is None else Reservation(decision, {}, 0, self._till.settle)

    def _taken(self, plan: Plan, taken: Taken) -> Reservation:
        """Decide by what the store said."""
        self._sample.decided(plan, taken)
        decision = decision_of(plan, taken.verdicts, source=_STORE, spent=taken.spent)
        if not decision.allowed:
            for charge, verdict in zip(plan.charges, taken.verdicts, strict=True):
                if charge.group == 0 and not verdict.fits:
                    self._denials.remember(charge, verdict)
        return self._till.hold(plan, decision, taken.now_us)


def without_charges(plan: Plan) -> Decision:
    """Decide where there is nothing to ask the store: no policy, or only impossible shadows."""
    return decision_of(plan, (), source=Source.NONE, spent=False) if plan.parts else EXEMPT
