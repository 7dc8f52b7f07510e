"""The limiter: checks requests against policies, over a store that may be away."""

import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fleetlimit.core.decision import Decision, Source
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import StoreError
from fleetlimit.limiter.active_policies import PolicyBook
from fleetlimit.limiter.admission import Admission, without_charges
from fleetlimit.limiter.audit.service import DEFAULT_KEYS, Audit
from fleetlimit.limiter.circuit_breaker import Breaker, BreakerSettings
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.events import BreakerState, Event, Observer, Observers
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.membership import Census
from fleetlimit.limiter.plan import Plan, Planner, decision_of, every_bucket
from fleetlimit.limiter.ports import Clock, Store, Tracer
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import Till


class MonotonicClock:
    """The process's own time."""

    def now_us(self) -> int:
        """Return monotonic microseconds."""
        return time.monotonic_ns() // 1_000


class Limiter:
    """Decides whether requests fit their policies.

    Args:
        store: Where the buckets live.
        local: A store of this process, for policies that say so while the other is away.
        keys: How buckets and identities are named.
        observers: Whom to tell.
        tracer: How checks are traced.
        clock: The process's own time.
        breaker: When to stop asking the store.
        replica: This replica's name in the store; made up when left out.
        min_replicas: Replicas that share a limit while the store is away, if no more are known.
        audit_keys: Callers of each limit whose sums over all replicas are compared with it; 0 for
            none.
    """

    def __init__(
        self,
        store: Store,
        *,
        local: Store,
        keys: KeyScheme | None = None,
        observers: Sequence[Observer] = (),
        tracer: Tracer | None = None,
        clock: Clock | None = None,
        breaker: BreakerSettings | None = None,
        replica: str = "",
        min_replicas: int = 1,
        audit_keys: int = DEFAULT_KEYS,
    ) -> None:
        self.store = store
        self.keys = keys or KeyScheme()
        self._local = local
        self._clock = clock or MonotonicClock()
        self._tracer = tracer
        self.tell: Callable[[Event], None] = Observers(observers).tell
        self._denials = DenialCache(self._clock)
        self.policies = PolicyBook(self.tell)
        self._planner = Planner(self.keys)
        self.policies.on_change(self._denials.clear)
        self.policies.on_change(self._planner.clear)
        self._breaker = Breaker(breaker or BreakerSettings(), self._probe, self.tell)
        self.census = Census(
            store, self._breaker, self.tell, replica=replica, at_least=min_replicas
        )
        self._fallback = Fallback(local)
        self.audit = Audit(
            store,
            self._breaker,
            self.tell,
            self._clock,
            self.policies,
            replica=self.census.replica,
            keys=audit_keys,
        )
        self._till = Till(store, self._breaker, self._denials, self.audit.sample, self._clock)
        self.policies.on_change(self._till.slices.clear)
        self._admission = Admission(
            self._till,
            denials=self._denials,
            fallback=self._fallback,
            census=self.census,
            sample=self.audit.sample,
            clock=self._clock,
            tell=self.tell,
        )

    async def start(self) -> None:
        """Connect and announce this replica; a store that is away is reported, not raised."""
        with contextlib.suppress(StoreError):
            await self._breaker.call("open", self.store.open)
        await self.census.start()
        self.audit.start()

    async def aclose(self) -> None:
        """Leave the fleet and close the stores."""
        await self._till.aclose()
        await self._fallback.aclose()
        await self.audit.aclose()
        await self.census.aclose()
        await self._breaker.aclose()
        await self.store.aclose()
        await self._local.aclose()

    @property
    def breaker_state(self) -> BreakerState:
        """Whether the store is asked at all."""
        return self._breaker.state

    async def _probe(self) -> None:
        await self.store.open()
        # Whether the store came back with its state is known before the first check asks it.
        await self.census.pulse()

    async def check(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        cost: int = 1,
    ) -> Decision:
        """Spend a cost from every limit of the policies, or from none.

        Under a policy with a `concurrency` limit use `reserve`, which gives the lease back.

        Args:
            policies: Policies, or names of policies in force.
            subject: Who and what is asking.
            principal: Who is asking, where there is no more to say than that.
            cost: What the request spends.

        Raises:
            ConfigError: There is no policy of that name.
            CostError: The cost is negative, or no limit could ever hold it.
        """
        asks = self._asks(policies, cost)
        return (await self.admit(asks, _subject(subject, principal))).decision

    async def reserve(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        cost: int = 1,
    ) -> Reservation:
        """Spend an estimated cost, to be corrected when the real one is known.

        Args and errors are those of `check`.
        """
        return await self.admit(self._asks(policies, cost), _subject(subject, principal))

    def admit(
        self,
        asks: Sequence[tuple[Policy, int]],
        subject: Subject,
    ) -> Coroutine[Any, Any, Reservation]:
        """Decide policies together, each at its own cost.

        Args:
            asks: Each policy with its cost.
            subject: Who and what is asking.

        Raises:
            CostError: A cost is negative, or no limit could ever hold it.
        """
        started_us = self._clock.now_us()
        plan = self._planner.plan(asks, subject)
        tracer = self._tracer
        if tracer is not None and tracer.follows():
            return self._trace(tracer, plan, subject, started_us)
        return self._admission.decide(plan, subject, started_us)

    async def _trace(
        self, tracer: Tracer, plan: Plan, subject: Subject, started_us: int
    ) -> Reservation:
        with tracer.check([part.policy.name for part in plan.parts]) as span:
            # The decision is emitted within the span, which the metrics' exemplars point to.
            reservation = await self._admission.decide(plan, subject, started_us)
            span.decided(reservation.decision)
        return reservation

    async def peek(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        cost: int = 1,
    ) -> Decision:
        """Return what `check` would decide now, spending nothing and telling nobody.

        Args and errors are those of `check`.

        Raises:
            StoreError: The store is away: there is nothing to look at.
        """
        plan = self._planner.plan(self._asks(policies, cost), _subject(subject, principal))
        if not plan.charges:
            return without_charges(plan)
        taken = await self._breaker.call(
            "take", lambda: self.store.take(plan.charges, commit=False)
        )
        return decision_of(plan, taken.verdicts, source=Source.STORE, spent=False)

    async def reset(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
    ) -> int:
        """Give a subject back all it has spent; other replicas follow within a second.

        Returns:
            How many buckets there were.

        Raises:
            ConfigError: There is no policy of that name.
            StoreError: The store is away.
        """
        found = [policy for policy, _ in self._asks(policies, 1)]
        buckets = every_bucket(found, _subject(subject, principal), self.keys)
        await self._local.forget(buckets)
        try:
            return await self._breaker.call("forget", self.store.forget, buckets)
        finally:
            # Not before: what is refused until the store has forgotten would be remembered.
            self._denials.forget(buckets)
            self._till.slices.forget(buckets)
            self.audit.sample.interrupt(buckets)

    def subject_hash(self, subject: Subject) -> str:
        """Return the hash that stands for a caller in the store, in logs and in traces."""
        return self.keys.caller(subject)

    def _asks(self, policies: Sequence[str | Policy], cost: int) -> list[tuple[Policy, int]]:
        named = self.policies.named
        return [(named(one) if isinstance(one, str) else one, cost) for one in policies]


def _subject(subject: Subject | None, principal: str | Principal | None) -> Subject:
    if subject is not None:
        return subject
    if isinstance(principal, str):
        principal = Principal(principal)
    return Subject(principal=principal)
