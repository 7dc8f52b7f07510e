"""Deciding one plan: by what is known to be refused, by the shared store, or without it."""

from collections.abc import Callable
from functools import partial
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


class Check:
    """One check, until it is decided.

    Args:
        plan: What it asks.
        subject: Who and what is asking.
        started_us: When it began to, by the clock.
        then: Is told of the decision, before whoever waits for it goes on.
    """

    __slots__ = ("plan", "reservation", "started_us", "subject", "then")

    def __init__(
        self, plan: Plan, subject: Subject, started_us: int, then: Callable[[Reservation], None]
    ) -> None:
        self.plan = plan
        self.subject = subject
        self.started_us = started_us
        self.then = then
        self.reservation: Reservation | None = None


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

    async def decide(self, check: Check) -> Reservation:
        """Decide a check."""
        reservation = self._unasked(check)
        if reservation is None:
            try:
                taken = await self._till.take(check.plan, partial(self._heard, check))
            except StoreError:
                reservation = await self._fallback.decide(check.plan, self._census.replicas)
            else:
                return check.reservation or self._heard(check, taken)
        return self._end(check, reservation)

    def _heard(self, check: Check, taken: Taken) -> Reservation:
        """Decide by what the store said."""
        plan = check.plan
        self._sample.decided(plan, taken)
        decision = decision_of(plan, taken.verdicts, source=_STORE, spent=taken.spent)
        if decision.outcome is DENIED:
            for charge, verdict in zip(plan.charges, taken.verdicts, strict=True):
                if charge.group == 0 and not verdict.fits:
                    self._denials.remember(charge, verdict)
        return self._end(check, self._till.hold(plan, decision, taken.now_us))

    def _end(self, check: Check, reservation: Reservation) -> Reservation:
        """Tell of a decision."""
        check.reservation = reservation
        subject = check.subject
        seconds = (self._clock.now_us() - check.started_us) / SECOND_US
        decision, anonymous = reservation.decision, subject.principal is None
        fields = (decision, check.plan.caller, anonymous, subject.tier, subject.route, seconds)
        self._tell(made(Decided, fields))
        check.then(reservation)
        return reservation

    def _unasked(self, check: Check) -> Reservation | None:
        """Decide where the store need not be asked."""
        plan = check.plan
        if plan.charges:
            decision = self._denials.decide(plan, check.started_us)
        else:
            decision = without_charges(plan)
        return None if decision is None else Reservation(decision, plan, 0, self._till.settle)


def without_charges(plan: Plan) -> Decision:
    """Decide where there is nothing to ask the store: no policy, or only impossible shadows."""
    return decision_of(plan, (), source=Source.NONE, spent=False) if plan.parts else EXEMPT
