"""Rate limiter: decides requests under policies, and resets the buckets of a caller."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from typing import Final

from fleetlimit.core.decision import Decision, Source
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import check_cost
from fleetlimit.core.subject import NO_HEADERS, Principal, Subject
from fleetlimit.errors import BucketCorrupt, ConfigError, StoreError
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.admission import Admission, decide_without_store
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.audit.service import DEFAULT_AUDIT_CALLERS, AuditService
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.check_span import FAILED, SafeCheckSpan
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreakers
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.events import BreakerState, Event, EventDispatcher, Observer
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.membership import ReplicaMembership
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.limiter.plan import PlanCache, PolicyCost, all_bucket_keys
from fleetlimit.limiter.ports import ONE_NODE, Clock, Store, Tracer
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import StoreGateway


class LimitSwitch:
    """Switch of all limits of the process; `fleetlimit.testing.unlimited` turns it off."""

    def __init__(self) -> None:
        self.is_off = False


LIMIT_SWITCH: Final = LimitSwitch()


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
        failure_log: Log of failures of observers; by default one of this limiter.

    Raises:
        ConfigError: An object is not an observer.
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
        failure_log: FailureLog | None = None,
    ) -> None:
        self.store = store
        self.key_scheme = key_scheme or KeyScheme()
        self._local = local
        self._clock = clock or MonotonicClock()
        self._tracer = tracer
        self._failure_log = failure_log or FailureLog(self._clock)
        self._dispatcher = EventDispatcher(observers, self._failure_log)
        self.emit: Callable[[Event], None] = self._dispatcher.emit
        self._bucket_events = BucketEvents()
        self.active_policies = ActivePolicies(self.emit, self._bucket_events)
        self._plan_cache = PlanCache(self.key_scheme, self._bucket_events)
        self._denial_cache = DenialCache(self._clock, self._bucket_events)
        self._breakers = CircuitBreakers(
            breaker or BreakerSettings(), store.topology, self._probe, self.emit
        )
        # The keys of membership and audit share a slot.
        get_breaker = partial(self._breakers.of_key, self.key_scheme.replicas_key)
        self.membership = ReplicaMembership(
            store,
            get_breaker,
            self.emit,
            key_scheme=self.key_scheme,
            replica=replica,
            min_replicas=min_replicas,
        )
        self._held_times = HeldTimes(self._clock)
        self._own_loop = OwnLoop()
        self._fallback = Fallback(local, self._held_times, self._own_loop)
        sample = UsageSample(audit_callers, self._bucket_events, self._failure_log)
        self.audit = AuditService(
            store,
            get_breaker,
            self.emit,
            self._clock,
            policies=self.active_policies,
            sample=sample,
            get_replica=lambda: self.membership.replica,
        )
        self._gateway = StoreGateway(
            store,
            self._breakers,
            self._bucket_events,
            sample,
            held_times=self._held_times,
            clock=self._clock,
            own_loop=self._own_loop,
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
        """Connect and register this replica. If the store is unavailable, an event reports it.

        Raises:
            ConfigError: The limiter runs in another event loop.
        """
        self.require_own_loop()
        self._breakers.start()
        await self._open(ONE_NODE)
        if self.store.topology is not None:
            await asyncio.gather(*map(self._open, self.store.topology.nodes))
        await self.membership.start()
        self.audit.start()

    async def _open(self, node: str) -> None:
        with contextlib.suppress(StoreError):
            await self._breakers.of_node(node).call("open", self.store.open, node)

    async def aclose(self) -> None:
        """Unregister this replica and close the stores.

        Raises:
            ConfigError: The limiter runs in another event loop.
        """
        self.require_own_loop()
        await self._gateway.aclose()
        await self._fallback.aclose()
        await self.audit.aclose()
        await self.membership.aclose()
        await self._breakers.aclose()
        await self.store.aclose()
        await self._local.aclose()
        self._failure_log.close()

    def require_own_loop(self) -> None:
        """Check that the running event loop is the one of this limiter.

        Raises:
            ConfigError: The limiter runs in another event loop.
        """
        self._own_loop.require()

    def add_observers(self, observers: Sequence[Observer]) -> None:
        """Pass the events from now on to further observers, each of them once.

        Raises:
            ConfigError: An object is not an observer.
        """
        self._dispatcher.add(observers)

    @property
    def breaker_state(self) -> BreakerState:
        """State of the circuit breaker; in a Cluster `open` if the breaker of any server is."""
        return self._breakers.state

    @property
    def open_nodes(self) -> list[str]:
        """Addresses of the servers of a Cluster whose circuit breaker is open."""
        return self._breakers.open_nodes

    @property
    def failure_kinds(self) -> dict[str, str]:
        """Kind of the last failure of the store, or of each such server of a Cluster."""
        return self._breakers.failure_kinds

    async def _probe(self, node: str) -> None:
        await self.store.open(node)
        topology = self.store.topology
        if topology is None or topology.node_of(self.key_scheme.replicas_key) == node:
            # Detects a loss of state before the first check uses the server again. The buckets of
            # a server are intact when the key of another program stands in place of the membership.
            with contextlib.suppress(BucketCorrupt):
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
            ConfigError: There is no policy of that name, or it has a `concurrency` limit; or the
                limiter runs in another event loop.
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
            ConfigError: The limiter runs in another event loop.
            CostError: A cost is negative, no whole number, or more than an enforced limit can
                ever hold.
        """
        mono_started_at_us = self._clock.monotonic_us()
        if LIMIT_SWITCH.is_off:
            costs = ()
        elif get_ident() != self._own_loop.thread_id:
            self._own_loop.require()
        plan = self._plan_cache.plan_for(costs, subject)
        tracer = self._tracer
        try:
            is_sampled = tracer is not None and tracer.is_sampled()
        except Exception as error:  # noqa: BLE001 - it must not fail the check
            self._failure_log.write(FAILED, error)
            is_sampled = False
        if tracer is None or not is_sampled:
            return await self._admission.admit(plan, subject, mono_started_at_us)
        policies = [each.policy.name for each in plan.policy_plans]
        with SafeCheckSpan(tracer, policies, self._failure_log) as span:
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
        self.require_own_loop()
        costs = [] if LIMIT_SWITCH.is_off else self._policy_costs(policies, cost)
        plan = self._plan_cache.plan_for(costs, _subject(subject, principal))
        if not plan.charges:
            return decide_without_store(plan)
        result = await self._gateway.peek(plan.charges)
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
            ConfigError: There is no policy of that name, or the limiter runs in another event loop.
            KeySecretError: Replicas use another key secret, so that their buckets are not found.
            StoreError: The store is unavailable.
        """
        self.require_own_loop()
        costs = self._policy_costs(policies, 1)
        keys = all_bucket_keys(
            [each.policy for each in costs], _subject(subject, principal), self.key_scheme
        )
        await self._local.delete(keys)
        try:
            await self.membership.verify_key_secret()
            return await self._gateway.delete(keys)
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
