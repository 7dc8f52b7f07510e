"""Store gateway: spends, corrects and renews in the shared store.

Its calls go through the circuit breaker and are safe to cancel.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from itertools import starmap
from operator import attrgetter
from typing import Any, Final

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.circuit_breaker import CIRCUIT_OPEN, CircuitBreaker, CircuitBreakers
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.lease_renewer import LeaseRenewer
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import AdjustFailed, Clock, Store
from fleetlimit.limiter.prefetch.prefetcher import Prefetcher
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.limiter.tasks import TaskSet

_KEY: Final = attrgetter("key")


class StoreGateway:
    """Acquires, adjusts and renews charges in the shared store.

    Args:
        store: The shared store.
        breakers: Circuit breakers for calls of the store.
        bucket_events: Receives the buckets whose charges were adjusted.
        sample: Records refunds and prefetches for the audit.
        held_times: How long requests hold the units of concurrency limits.
        clock: Clock of this process.
        own_loop: Event loop of the limiter.
    """

    def __init__(
        self,
        store: Store,
        breakers: CircuitBreakers,
        bucket_events: BucketEvents,
        sample: UsageSample,
        *,
        held_times: HeldTimes,
        clock: Clock,
        own_loop: OwnLoop,
    ) -> None:
        self._own_loop = own_loop
        self._store = store
        self._breakers = breakers
        self._bucket_events = bucket_events
        self._sample = sample
        self._held_times = held_times
        self._lease_renewer = LeaseRenewer(self.renew, self.adjust, held_times)
        self._tasks = TaskSet()
        self._prefetcher = Prefetcher(self._acquire, self.adjust, bucket_events, sample, clock)

    def acquire(self, plan: Plan) -> Coroutine[Any, Any, AcquireResult]:
        """Spend all charges of a plan, from the store or from prefetched units.

        Raises:
            KeysFailed: Only some of the charges failed, in a Cluster.
            StoreError: The store is unavailable.
        """
        planned = plan.prefetch
        if planned is not None:
            bucket = self._prefetcher.bucket_for(planned)
            if bucket is not None:
                return self._prefetcher.acquire(plan, planned.cost, bucket)
        breaker = self._breakers.only
        if breaker is None:
            acquiring = self._acquire(plan.charges)
        else:
            # As `_acquire`, without its Python call in every check.
            acquiring = breaker.call("acquire", self._store.acquire, plan.charges)
        return self._acquire_leases(plan, acquiring) if plan.has_leases else acquiring

    def holds(self, plan: Plan) -> bool:
        """Return whether this replica holds prefetched units for all charges of a plan."""
        return plan.prefetch is not None and self._prefetcher.holds(plan.prefetch)

    def _acquire(self, charges: Sequence[Charge]) -> Coroutine[Any, Any, AcquireResult]:
        keys = [each.key for each in charges]
        return self._breakers.call("acquire", keys, self._store.acquire, charges)

    async def _acquire_leases(
        self, plan: Plan, acquiring: Coroutine[Any, Any, AcquireResult]
    ) -> AcquireResult:
        # Without the shield, a request that is cancelled while the store answers would leave its
        # leases held until they expire.
        task = asyncio.ensure_future(acquiring)
        try:
            reply = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._tasks.spawn(self._release_abandoned(task, plan))
            raise
        return replace(reply, statuses=self._held_times.estimate(plan, reply.statuses))

    async def _release_abandoned(self, task: asyncio.Future[AcquireResult], plan: Plan) -> None:
        with contextlib.suppress(StoreError):
            result = await task
            if result.spent:
                leases = [each for each in plan.charges if each.lease]
                await self._adjust(Reservation.releases_of(leases))

    def keep_leases(self, reservation: Reservation) -> None:
        """Renew the leases of a reservation until they are released."""
        self._lease_renewer.track(reservation)

    def adjust(self, adjustments: Sequence[Adjustment]) -> Awaitable[Sequence[int | None]]:
        """Correct charges. While the store is unavailable they expire without a correction.

        Returns:
            Store time of each correction; None for one whose server is unavailable.

        Raises:
            ConfigError: The limiter belongs to another event loop.
        """
        self._own_loop.require()
        # The shield completes a refund whose request is cancelled while the store answers.
        return asyncio.shield(self._tasks.spawn(self._adjust(adjustments)))

    async def _adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int | None]:
        groups = self._breakers.group(adjustments, _KEY)
        replies = await asyncio.gather(*starmap(self._adjust_node, groups.items()))
        adjusted_at_us = {
            each.key: at_us
            for group, reply in zip(groups.values(), replies, strict=True)
            for each, at_us in zip(group, reply, strict=True)
        }
        return [adjusted_at_us[each.key] for each in adjustments]

    async def _adjust_node(
        self, breaker: CircuitBreaker, adjustments: Sequence[Adjustment]
    ) -> Sequence[int | None]:
        store_adjusted_at_us: Sequence[int | None] = [None] * len(adjustments)
        try:
            store_adjusted_at_us = await breaker.call("adjust", self._store.adjust, adjustments)
        except StoreError as error:
            if isinstance(error, AdjustFailed):
                found = error.store_adjusted_at_us_by_key
                store_adjusted_at_us = [found.get(each.key) for each in adjustments]
            if error.kind != CIRCUIT_OPEN:
                # The store may have made the refund although its reply was lost.
                pairs = zip(adjustments, store_adjusted_at_us, strict=True)
                lost = [each.key for each, at_us in pairs if at_us is None and each.delta < 0]
                self._bucket_events.emit_refund_lost(lost)
        self._sample.record_refunds(adjustments, store_adjusted_at_us)
        # After the reply: a denial that is cached before the store has adjusted is dropped, too.
        self._bucket_events.emit_adjusted([each.key for each in adjustments])
        return store_adjusted_at_us

    async def renew(self, leases: Sequence[Charge]) -> None:
        """Renew leases. While the store is unavailable they expire without a renewal."""
        groups = self._breakers.group(leases, _KEY)
        await asyncio.gather(*starmap(self._renew_node, groups.items()))

    async def _renew_node(self, breaker: CircuitBreaker, leases: Sequence[Charge]) -> None:
        with contextlib.suppress(StoreError):
            await breaker.call("renew", self._store.renew, leases)

    async def peek(self, charges: Sequence[Charge]) -> AcquireResult:
        """Decide charges without spending.

        Raises:
            StoreError: The store is unavailable, or one of the servers that have the buckets.
        """
        keys = [each.key for each in charges]
        acquire = partial(self._store.acquire, dry_run=True)
        return await self._breakers.call("acquire", keys, acquire, charges)

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete buckets, and return how many existed.

        Raises:
            StoreError: The store is unavailable, or one of the servers that have the buckets. The
                other servers have deleted theirs.
        """
        groups = self._breakers.group(keys, str)
        outcomes = await asyncio.gather(
            *(breaker.call("delete", self._store.delete, each) for breaker, each in groups.items()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(each for each in outcomes if isinstance(each, int))

    async def aclose(self) -> None:
        """Stop renewing leases, refund prefetched units, and wait for calls in the background."""
        await self._lease_renewer.aclose()
        await self._prefetcher.aclose()
        await self._tasks.wait()
