"""Rate limiter: decides requests under policies, and resets the buckets of a caller."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from fleetlimit.core.decision import Decision, Source
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import check_cost
from fleetlimit.core.subject import NO_HEADERS, Principal, Subject
from fleetlimit.errors import ConfigError, StoreError
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.admission import Admission, decide_without_store
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.audit.service import DEFAULT_AUDIT_CALLERS, AuditService
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.events import BreakerState, Event, EventDispatcher, Observer
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.membership import ReplicaMembership
from fleetlimit.limiter.plan import PlanCache, PolicyCost, all_bucket_keys
from fleetlimit.limiter.ports import Clock, Store, Tracer
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import StoreGateway


class LimitSwitch:
    """Switch of all limits of the process; `fleetlimit.testing.unlimited` turns it off."""

    def __init__(self) -> None:
        self.is_off = False


LIMIT_SWITCH: Final = LimitSwitch()


class MonotonicClock:
    """Monotonic clock of this process."""

    def monotonic_us(self) -> int:
        """Return monotonic microseconds."""
        return time.monotonic_ns() // 1_000


class Limiter:
    """Checks requests against policies.

    Args:
        store: Shared storage of buckets.
        local: Store of this process, for policies with `on_store_error: local`.
        key_scheme: Names of buckets, and hashes of identities.
        observers: Receive an event for everything that happens.
        tracer: Creates spans of checks.
        clock: Clock of this process.
        breaker: Settings of the circuit breaker.
        replica: Name of this replica in the store; generated if left out.
        min_replicas: Replicas that share a limit while the store is unavailable, unless more are
            known.
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
        audit_callers: int = DEFAULT_AUDIT_CALLERS,
    ) -> None:
        self.store = store
        self.key_scheme = key_scheme or KeyScheme()
        self._local = local
        self._clock = clock or MonotonicClock()
        self._tracer = tracer
        self._dispatcher = EventDispatcher(observers)
        self.emit: Callable[[Event], None] = self._dispatcher.emit
        self._bucket_events = BucketEvents()
        self.active_policies = ActivePolicies(self.emit, self._bucket_events)
        self._plan_cache = PlanCache(self.key_scheme, self._bucket_events)
        self._denial_cache = DenialCache(self._clock, self._bucket_events)
        self._breaker = CircuitBreaker(breaker or BreakerSettings(), self._probe, self.emit)
        self.membership = ReplicaMembership(
            store, self._breaker, self.emit, replica=replica, min_replicas=min_replicas
        )
        self._held_times = HeldTimes(self._clock)
        self._fallback = Fallback(local, self._held_times)
        sample = UsageSample(audit_callers, self._bucket_events)
        self.audit = AuditService(
            store,
            self._breaker,
            self.emit,
            self._clock,
            policies=self.active_policies,
            sample=sample,
            get_replica=lambda: self.membership.replica,
        )
        self._gateway = StoreGateway(
            store,
            self._breaker,
            self._bucket_events,
            sample,
            held_times=self._held_times,
            clock=self._clock,
        )
        self._admission = Admission(
            self._gateway,
            denial_cache=self._denial_cache,
            fallback=self._fallback,
            membership=self.membership,
            sample=sample,
            clock=self._clock,
            emit=self.emit,
        )

    async def start(self) -> None:
        """Connect and register this replica. If the store is unavailable, an event reports it."""
        self._breaker.start()
        with contextlib.suppress(StoreError):
            await self._breaker.call("open", self.store.open)
        await self.membership.start()
        self.audit.start()

    async def aclose(self) -> None:
        """Unregister this replica and close the stores."""
        await self._gateway.aclose()
        await self._fallback.aclose()
        await self.audit.aclose()
        await self.membership.aclose()
        await self._breaker.aclose()
        await self.store.aclose()
        await self._local.aclose()

    def add_observers(self, observers: Sequence[Observer]) -> None:
        """Pass the events from now on to further observers, each of them once."""
        self._dispatcher.add(observers)

    @property
    def breaker_state(self) -> BreakerState:
        """State of the circuit breaker."""
        return self._breaker.state

    async def _probe(self) -> None:
        await self.store.open()
        # Detects a loss of state before the first check uses the store again.
        await self.membership.send_heartbeat()

    async def check(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        cost: int = 1,
    ) -> Decision:
        """Spend a cost from every limit of the policies, or from none.

        A policy with a `concurrency` limit needs `reserve`, which returns the leases to release.

        Args:
            policies: Policies, or names of active policies.
            subject: The caller and the route.
            principal: The caller, in place of `subject`.
            cost: Cost of the request.

        Raises:
            ConfigError: There is no policy of that name, or it has a `concurrency` limit.
            CostError: The cost is negative, no whole number, or more than an enforced limit can
                ever hold.
        """
        costs = self._policy_costs(policies, cost)
        for each in costs:
            if each.policy.has_leases:
                raise ConfigError(
                    f"policy {each.policy.name} has a concurrency limit, whose units `check` "
                    "cannot release: write `async with await limiter.reserve(...)`"
                )
        return (await self.admit(costs, _subject(subject, principal))).decision

    async def reserve(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        cost: int = 1,
    ) -> Reservation:
        """Spend an estimated cost, to be corrected when the actual cost is known.

        With a `concurrency` limit, write `async with await limiter.reserve(...)`, which releases
        the units at the end. Other arguments and errors are those of `check`.
        """
        return await self.admit(self._policy_costs(policies, cost), _subject(subject, principal))

    async def admit(self, costs: Sequence[PolicyCost], subject: Subject) -> Reservation:
        """Spend from several policies together, each at its own cost.

        Args:
            costs: Policies, each with the cost of the request under it.
            subject: The caller and the route.

        Raises:
            CostError: A cost is negative, no whole number, or more than an enforced limit can
                ever hold.
        """
        mono_started_at_us = self._clock.monotonic_us()
        if LIMIT_SWITCH.is_off:
            costs = ()
        plan = self._plan_cache.plan_for(costs, subject)
        tracer = self._tracer
        if tracer is None or not tracer.is_sampled():
            return await self._admission.admit(plan, subject, mono_started_at_us)
        with tracer.start_check([each.policy.name for each in plan.policy_plans]) as span:
            # The decision is emitted within the span, which the metrics' exemplars point to.
            reservation = await self._admission.admit(plan, subject, mono_started_at_us)
            span.set_decision(reservation.decision)
        return reservation

    async def peek(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        cost: int = 1,
    ) -> Decision:
        """Return what `check` would decide now, without spending and without an event.

        Arguments and errors are those of `reserve`.

        Raises:
            StoreError: The store is unavailable.
        """
        costs = [] if LIMIT_SWITCH.is_off else self._policy_costs(policies, cost)
        plan = self._plan_cache.plan_for(costs, _subject(subject, principal))
        if not plan.charges:
            return decide_without_store(plan)
        result = await self._breaker.call(
            "acquire", lambda: self.store.acquire(plan.charges, dry_run=True)
        )
        statuses = result.statuses
        if plan.has_leases:
            statuses = self._held_times.estimate(plan, statuses)
        return plan.decision(statuses, source=Source.STORE, spent=False)

    async def reset(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
    ) -> int:
        """Delete a subject's buckets; other replicas admit it again within a second.

        Returns:
            How many buckets existed.

        Raises:
            ConfigError: There is no policy of that name.
            StoreError: The store is unavailable.
        """
        costs = self._policy_costs(policies, 1)
        keys = all_bucket_keys(
            [each.policy for each in costs], _subject(subject, principal), self.key_scheme
        )
        await self._local.delete(keys)
        try:
            return await self._breaker.call("delete", self.store.delete, keys)
        finally:
            # After the reply: a denial that is cached before the store has deleted is dropped,
            # too. Also after a failure, because the store may have deleted the buckets.
            self._bucket_events.emit_reset(keys)

    def subject_hash(self, subject: Subject) -> str:
        """Return the hash of a caller that the store, logs and traces contain."""
        return self.key_scheme.subject_hash(subject)

    def _policy_costs(self, policies: Sequence[str | Policy], cost: int) -> list[PolicyCost]:
        # Here, because compiled code would raise a `TypeError` for a cost that is no integer.
        cost = check_cost(cost)
        costs = []
        for policy in policies:
            found = self.active_policies.require(policy) if isinstance(policy, str) else policy
            costs.append(PolicyCost(found, cost))
        return costs


def _subject(subject: Subject | None, principal: str | Principal | None) -> Subject:
    if subject is not None:
        return subject
    if isinstance(principal, str):
        principal = Principal(principal)
    return Subject(principal=principal, headers=NO_HEADERS)
