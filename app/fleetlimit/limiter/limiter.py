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
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.admission import Admission, decide_without_store
from fleetlimit.limiter.audit.service import DEFAULT_CALLERS, AuditService
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.events import BreakerState, Event, EventDispatcher, Observer
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.membership import ReplicaMembership
from fleetlimit.limiter.plan import Plan, PlanCache, all_bucket_keys, decision_of
from fleetlimit.limiter.ports import Clock, Store, Tracer
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import StoreGateway


class MonotonicClock:
    """The process's own time."""

    def monotonic_us(self) -> int:
        """Return monotonic microseconds."""
        return time.monotonic_ns() // 1_000


class Limiter:
    """Decides whether requests fit their policies.

    Args:
        store: Where the buckets live.
        local: A store of this process, for policies that say so while the other is away.
        key_scheme: How buckets and identities are named.
        observers: Whom to tell.
        tracer: How checks are traced.
        clock: The process's own time.
        breaker: When to stop asking the store.
        replica: This replica's name in the store; made up when left out.
        min_replicas: Replicas that share a limit while the store is away, if no more are known.
        audit_callers: Audited callers of each limit; 0 for no audit.
    """

    def __init__(
        self,
        store: Store,
        *,
        local: Store,
        key_scheme: KeyScheme | None = None,
        observers: Sequence[Observer] = (),
        tracer: Tracer | None = None,
        clock: Clock | None = None,
        breaker: BreakerSettings | None = None,
        replica: str = "",
        min_replicas: int = 1,
        audit_callers: int = DEFAULT_CALLERS,
    ) -> None:
        self.store = store
        self.key_scheme = key_scheme or KeyScheme()
        self._local = local
        self._clock = clock or MonotonicClock()
        self._tracer = tracer
        self.emit: Callable[[Event], None] = EventDispatcher(observers).emit
        self._denial_cache = DenialCache(self._clock)
        self.active_policies = ActivePolicies(self.emit)
        self._plan_cache = PlanCache(self.key_scheme)
        self.active_policies.subscribe(self._denial_cache.clear)
        self.active_policies.subscribe(self._plan_cache.clear)
        self._breaker = CircuitBreaker(breaker or BreakerSettings(), self._probe, self.emit)
        self.membership = ReplicaMembership(
            store, self._breaker, self.emit, replica=replica, min_replicas=min_replicas
        )
        self._fallback = Fallback(local)
        self.audit = AuditService(
            store,
            self._breaker,
            self.emit,
            self._clock,
            self.active_policies,
            replica=self.membership.replica,
            max_callers=audit_callers,
        )
        self._gateway = StoreGateway(
            store, self._breaker, self._denial_cache, self.audit.sample, self._clock
        )
        self.active_policies.subscribe(self._gateway.prefetcher.retire_all)
        self._admission = Admission(
            self._gateway,
            denial_cache=self._denial_cache,
            fallback=self._fallback,
            membership=self.membership,
            sample=self.audit.sample,
            clock=self._clock,
            emit=self.emit,
        )

    async def start(self) -> None:
        """Connect and announce this replica; a store that is away is reported, not raised."""
        with contextlib.suppress(StoreError):
            await self._breaker.call("open", self.store.open)
        await self.membership.start()
        self.audit.start()

    async def aclose(self) -> None:
        """Leave the fleet and close the stores."""
        await self._gateway.aclose()
        await self._fallback.aclose()
        await self.audit.aclose()
        await self.membership.aclose()
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
        await self.membership.send_heartbeat()

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
        asks = self._policy_costs(policies, cost)
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
        return await self.admit(self._policy_costs(policies, cost), _subject(subject, principal))

    def admit(
        self,
        costs: Sequence[tuple[Policy, int]],
        subject: Subject,
    ) -> Coroutine[Any, Any, Reservation]:
        """Decide policies together, each at its own cost.

        Args:
            costs: Each policy with its cost.
            subject: Who and what is asking.

        Raises:
            CostError: A cost is negative, or no limit could ever hold it.
        """
        started_us = self._clock.monotonic_us()
        plan = self._plan_cache.plan_for(costs, subject)
        tracer = self._tracer
        if tracer is not None and tracer.is_sampled():
            return self._trace(tracer, plan, subject, started_us)
        return self._admission.admit(plan, subject, started_us)

    async def _trace(
        self, tracer: Tracer, plan: Plan, subject: Subject, started_us: int
    ) -> Reservation:
        with tracer.start_check([part.policy.name for part in plan.policy_plans]) as span:
            # The decision is emitted within the span, which the metrics' exemplars point to.
            reservation = await self._admission.admit(plan, subject, started_us)
            span.set_decision(reservation.decision)
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
        plan = self._plan_cache.plan_for(
            self._policy_costs(policies, cost), _subject(subject, principal)
        )
        if not plan.charges:
            return decide_without_store(plan)
        taken = await self._breaker.call(
            "take", lambda: self.store.acquire(plan.charges, commit=False)
        )
        return decision_of(plan, taken.statuses, source=Source.STORE, spent=False)

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
        found = [policy for policy, _ in self._policy_costs(policies, 1)]
        buckets = all_bucket_keys(found, _subject(subject, principal), self.key_scheme)
        await self._local.delete(buckets)
        try:
            return await self._breaker.call("forget", self.store.delete, buckets)
        finally:
            # Not before: what is refused until the store has forgotten would be remembered.
            self._denial_cache.discard(buckets)
            self._gateway.prefetcher.drop(buckets)
            self.audit.sample.invalidate(buckets)

    def subject_hash(self, subject: Subject) -> str:
        """Return the hash that stands for a caller in the store, in logs and in traces."""
        return self.key_scheme.subject_hash(subject)

    def _policy_costs(
        self, policies: Sequence[str | Policy], cost: int
    ) -> list[tuple[Policy, int]]:
        named = self.active_policies.require
        return [(named(one) if isinstance(one, str) else one, cost) for one in policies]


def _subject(subject: Subject | None, principal: str | Principal | None) -> Subject:
    if subject is not None:
        return subject
    if isinstance(principal, str):
        principal = Principal(principal)
    return Subject(principal=principal)
