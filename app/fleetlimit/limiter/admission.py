"""Deciding one plan: by what is known to be refused, by the shared store, or without it."""

from collections.abc import Callable
from typing import Final

from fleetlimit.core.decision import DENIED, EXEMPT, Decision, Source
from fleetlimit.core.made import made
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import Subject
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.events import CheckDecided, Event
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.membership import ReplicaMembership
from fleetlimit.limiter.plan import Plan, decision_of
from fleetlimit.limiter.ports import AcquireResult, Clock
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import StoreGateway

_STORE: Final = Source.STORE


class Admission:
    """Decides plans, and tells of every decision.

    Args:
        gateway: Spends from the shared store.
        denial_cache: What is known to refuse.
        fallback: Decides while the store is away.
        membership: Knows how many replicas share a limit then.
        sample: Is told of what the store let in.
        clock: The process's own time.
        emit: Hears of every decision.
    """

    def __init__(
        self,
        gateway: StoreGateway,
        *,
        denial_cache: DenialCache,
        fallback: Fallback,
        membership: ReplicaMembership,
        sample: UsageSample,
        clock: Clock,
        emit: Callable[[Event], None],
    ) -> None:
        self._gateway = gateway
        self._denial_cache = denial_cache
        self._fallback = fallback
        self._membership = membership
        self._sample = sample
        self._clock = clock
        self._emit = emit

    async def admit(self, plan: Plan, subject: Subject, started_us: int) -> Reservation:
        """Decide a plan, and emit the decision.

        Args:
            plan: The charges of the check.
            subject: The caller and the route.
            started_us: Monotonic microseconds when the check began.
        """
        reservation = self._decide_locally(plan, started_us)
        if reservation is None:
            try:
                taken = await self._gateway.acquire(plan)
            except StoreError:
                reservation = await self._fallback.decide(plan, self._membership.replicas)
            else:
                reservation = self._asked(plan, taken)
        seconds = (self._clock.monotonic_us() - started_us) / SECOND_US
        decision, anonymous = reservation.decision, subject.principal is None
        fields = (decision, plan.subject_hash, anonymous, subject.tier, subject.route, seconds)
        self._emit(made(CheckDecided, fields))
        return reservation

    def _decide_locally(self, plan: Plan, now_us: int) -> Reservation | None:
        """Decide without the store, if that is possible."""
        decision = (
            self._denial_cache.lookup(plan, now_us) if plan.charges else decide_without_store(plan)
        )
        return None if decision is None else Reservation(decision, plan, 0, self._gateway.adjust)

    def _asked(self, plan: Plan, taken: AcquireResult) -> Reservation:
        """Decide by the store's reply."""
        self._sample.record(plan, taken)
        decision = decision_of(plan, taken.statuses, source=_STORE, spent=taken.spent)
        if decision.outcome is DENIED:
            for charge, verdict in zip(plan.charges, taken.statuses, strict=True):
                if charge.group == 0 and not verdict.allowed:
                    self._denial_cache.add(charge, verdict)
        return self._gateway.open_reservation(plan, decision, taken.store_now_us)


def decide_without_store(plan: Plan) -> Decision:
    """Decide where there is nothing to ask the store: no policy, or only impossible shadows."""
    return decision_of(plan, (), source=Source.NONE, spent=False) if plan.policy_plans else EXEMPT
