"""Rate limiter: decides requests under policies, with its parts and their life."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

from fleetlimit.call_advice import advised
from fleetlimit.core.decision import BucketStatus, Decision, PolicyResult
from fleetlimit.core.exemption import Exemption
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.subject import Subject
from fleetlimit.errors import BucketCorrupt, StoreError
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.admission import Admission
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.audit.service import DEFAULT_AUDIT_CALLERS, AuditService
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.check_span import FAILED, SafeCheckSpan
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreakers
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.dispatcher import EventDispatcher
from fleetlimit.limiter.events import BreakerState, Event
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.limit_switch import LIMIT_SWITCH
from fleetlimit.limiter.membership import ReplicaMembership
from fleetlimit.limiter.observers import Observer
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.limiter.peeks import Peeks
from fleetlimit.limiter.plan import (
    Plan,
    PlanCache,
    PolicyCost,
    all_bucket_keys,
    make_plan,
)
from fleetlimit.limiter.policy_checks import PolicyChecks
from fleetlimit.limiter.policy_costs import SingleCosts
from fleetlimit.limiter.ports import ONE_NODE, Clock, Store, Tracer
from fleetlimit.limiter.provided_limits import ProvidedLimits
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import StoreGateway
from fleetlimit.limiter.wait_queue import ResolveCosts, WaitQueues


class _DecoratorOfOthers:
    """Method of other limiters, which routes are decorated with: reading it is an error.

    The error says what to write. This is a descriptor, because a class with `__getattr__` looks up
    all its attributes more slowly.
    """

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, _instance: object, owner: type) -> object:
        raise AttributeError(
            f"{owner.__name__!r} has no attribute {self._name!r}: write "
            'dependencies=[Depends(RateLimit("5/minute"))] on the route'
        )


class Limiter(PolicyChecks):
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

    @advised(
        'FastAPI(lifespan=Fleetlimit("redis://localhost:6379/0")), which makes its limiter, and '
        'dependencies=[Depends(RateLimit("5/minute"))] on routes',
        {},
    )
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
        self.single_costs = SingleCosts(self.active_policies)
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
        # Limits of callers from a provider of the app; set before the first check.
        self.provided_limits: ProvidedLimits | None = None
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
        self._peeks = Peeks(self._gateway, self._held_times)
        self._admission = Admission(
            self._gateway,
            denial_cache=self._denial_cache,
            fallback=self._fallback,
            membership=self.membership,
            sample=sample,
            clock=self._clock,
            emit=self.emit,
        )
        self._wait_queues = WaitQueues(
            self._clock,
            self._bucket_events,
            plan_for=self._plan_for,
            attempt=partial(self.admit, is_attempt=True),
            refuse=self._admission.refuse,
        )

    if not TYPE_CHECKING:
        # Hidden from type checkers, which report these names themselves.
        limit, shared_limit = _DecoratorOfOthers(), _DecoratorOfOthers()
        exempt, hit = _DecoratorOfOthers(), _DecoratorOfOthers()

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
        await self._wait_queues.aclose()
        if self.provided_limits is not None:
            await self.provided_limits.aclose()
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

    async def acquire(
        self, resolve_costs: ResolveCosts, subject: Subject, *, timeout_us: int | None
    ) -> Reservation:
        """Spend from several policies together, and wait until all have the units.

        Checks of one process that wait for a bucket are admitted in the order in which they came. A
        check that is cancelled spends nothing. Its decision is emitted when the wait ends.

        Args:
            resolve_costs: Returns the policies, each with the cost of the request under it; called
                again when the active policies were replaced.
            subject: The caller and the route.
            timeout_us: Microseconds that the check may wait; None for any time. A check that
                cannot be admitted within it is denied without a wait.

        Raises:
            ConfigError: A policy does not exist, the limiter runs in another event loop, or was
                closed during the wait.
            CostError: A cost is negative, no whole number, or more than an enforced limit can
                ever hold.
        """
        self.require_own_loop()
        provided_limits = self.provided_limits
        if provided_limits is None:
            return await self._wait_queues.acquire(resolve_costs, subject, timeout_us)
        # The queue plans without a wait, with the answers that are known then.
        await provided_limits.apply(resolve_costs(), subject)
        return await self._wait_queues.acquire(
            lambda: provided_limits.apply_known(resolve_costs(), subject), subject, timeout_us
        )

    @property
    def running_loop(self) -> asyncio.AbstractEventLoop | None:
        """Event loop of the limiter while it is running; see `OwnLoop.running`."""
        return self._own_loop.running

    @property
    def waiting(self) -> int:
        """Checks that wait in `acquire`."""
        return len(self._wait_queues)

    def _plan_for(self, costs: Sequence[PolicyCost], subject: Subject) -> Plan:
        return self._plan_cache.plan_for(() if LIMIT_SWITCH.is_off else costs, subject)

    async def admit(
        self, costs: Sequence[PolicyCost], subject: Subject, *, is_attempt: bool = False
    ) -> Reservation:
        """Spend from several policies together, each at its own cost.

        Args:
            costs: Policies, each with the cost of the request under it.
            subject: The caller and the route.
            is_attempt: Whether the check may be repeated after a denial, which is then not emitted.

        Raises:
            ConfigError: The limiter runs in another event loop.
            CostError: A cost is negative, no whole number, or more than an enforced limit can
                ever hold.
        """
        mono_started_at_us = self._clock.monotonic_us()
        if LIMIT_SWITCH.is_off:
            costs = ()
        else:
            if get_ident() != self._own_loop.thread_id:
                self._own_loop.require()
            if self.provided_limits is not None:
                costs = await self.provided_limits.apply(costs, subject)
        plan = self._plan_cache.plan_for(costs, subject)
        tracer = self._tracer
        try:
            is_sampled = tracer is not None and tracer.is_sampled()
        except Exception as error:  # noqa: BLE001 - it must not fail the check
            self._failure_log.write(FAILED, error)
            is_sampled = False
        if tracer is None or not is_sampled:
            return await self._admission.admit(
                plan, subject, mono_started_at_us, is_attempt=is_attempt
            )
        policies = [each.policy.name for each in plan.policy_plans]
        with SafeCheckSpan(tracer, policies, self._failure_log) as span:
            # The decision is emitted within the span, which the metrics' exemplars point to.
            reservation = await self._admission.admit(
                plan, subject, mono_started_at_us, is_attempt=is_attempt
            )
            span.set_decision(reservation.decision)
        return reservation

    async def peek_costs(self, costs: Sequence[PolicyCost], subject: Subject) -> Decision:
        """Return what `admit` would decide now, without spending and without an event.

        Arguments and errors are those of `admit`.

        Raises:
            StoreError: The store is unavailable.
        """
        self.require_own_loop()
        if self.provided_limits is not None:
            costs = await self.provided_limits.apply(costs, subject)
        return await self._peeks.decide(self._plan_for(costs, subject))

    @property
    def exemption(self) -> Exemption | None:
        """Requests that no policy limits; None without."""
        return self._plan_cache.exemption

    @exemption.setter
    def exemption(self, exemption: Exemption | None) -> None:
        self._plan_cache.exemption = exemption
        self._plan_cache.clear()

    async def peek_each(
        self, checks: Sequence[tuple[PolicyCost, Subject]]
    ) -> list[tuple[PolicyResult, Sequence[BucketStatus]] | None]:
        """Return what each check of one policy would decide now.

        All of them are one call of the store, and a bucket that several share is looked at once.

        Args:
            checks: Policies, each with the caller and the route.

        Returns:
            The result of each policy, and the statuses of its buckets; None for a policy that is
            off, or from which the caller is exempt.

        Raises:
            ConfigError: The limiter runs in another event loop.
            StoreError: The store is unavailable.
        """
        self.require_own_loop()
        plans = [
            make_plan([cost], subject, self.key_scheme, self.exemption) for cost, subject in checks
        ]
        return await self._peeks.decide_each(plans)

    async def reset_costs(self, costs: Sequence[PolicyCost], subject: Subject) -> int:
        """Delete a subject's buckets under the policies; errors are those of `reset`.

        Returns:
            How many buckets existed.
        """
        self.require_own_loop()
        if self.provided_limits is not None:
            costs = await self.provided_limits.apply(costs, subject)
        keys = all_bucket_keys(costs, subject, self.key_scheme)
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
