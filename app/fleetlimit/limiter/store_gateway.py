"""Store gateway: spends, corrects and renews in the shared store.

Its calls go through the circuit breaker and are safe to cancel.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import Decision
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.circuit_breaker import CIRCUIT_OPEN, CircuitBreaker
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import AcquireResult, Clock, Store
from fleetlimit.limiter.prefetch.prefetcher import Prefetcher
from fleetlimit.limiter.reservation import LeaseRenewer, Reservation
from fleetlimit.limiter.tasks import TaskSet


class StoreGateway:
    """Acquires, adjusts and renews charges in the shared store.

    Args:
        store: The shared store.
        breaker: Circuit breaker for calls of the store.
        bucket_events: Receives the buckets whose charges were adjusted.
        sample: Records refunds and prefetches for the audit.
        held_times: How long requests hold the units of concurrency limits.
        clock: Clock of this process.
    """

    def __init__(
        self,
        store: Store,
        breaker: CircuitBreaker,
        bucket_events: BucketEvents,
        sample: UsageSample,
        *,
        held_times: HeldTimes,
        clock: Clock,
    ) -> None:
        self._store = store
        self._breaker = breaker
        self._bucket_events = bucket_events
        self._sample = sample
        self._held_times = held_times
        self._lease_renewer = LeaseRenewer(self.renew, self.adjust, held_times)
        self._tasks = TaskSet()
        self._prefetcher = Prefetcher(self._acquire, self.adjust, bucket_events, sample, clock)

    def acquire(self, plan: Plan) -> Coroutine[Any, Any, AcquireResult]:
        """Spend all charges of a plan, from the store or from prefetched units.

        Raises:
            StoreError: The store is unavailable.
        """
        if plan.prefetch is not None:
            return self._prefetcher.acquire(plan, plan.prefetch)
        acquiring = self._breaker.call("acquire", self._store.acquire, plan.charges)
        return self._acquire_leases(plan, acquiring) if plan.has_leases else acquiring

    def _acquire(self, charges: Sequence[Charge]) -> Coroutine[Any, Any, AcquireResult]:
        return self._breaker.call("acquire", self._store.acquire, charges)

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

    def open_reservation(
        self, plan: Plan, decision: Decision, acquired: AcquireResult
    ) -> Reservation:
        """Return the reservation of a decision, and renew its leases until they are released."""
        reservation = Reservation(decision, plan, acquired, self.adjust)
        if plan.has_leases:
            self._lease_renewer.track(reservation)
        return reservation

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        """Correct charges. While the store is unavailable they expire without a correction."""
        # The shield completes a refund whose request is cancelled while the store answers.
        await asyncio.shield(self._tasks.spawn(self._adjust(adjustments)))

    async def _adjust(self, adjustments: Sequence[Adjustment]) -> None:
        try:
            store_adjusted_at_us = await self._breaker.call(
                "adjust", self._store.adjust, adjustments
            )
        except StoreError as error:
            if error.kind != CIRCUIT_OPEN:
                # The store may have made the refund although its reply was lost.
                refunds = [each.key for each in adjustments if each.delta < 0]
                self._bucket_events.emit_refund_lost(refunds)
        else:
            self._sample.record_refunds(adjustments, store_adjusted_at_us)
        # After the reply: a denial that is cached before the store has adjusted is dropped, too.
        self._bucket_events.emit_adjusted([each.key for each in adjustments])

    async def renew(self, leases: Sequence[Charge]) -> None:
        """Renew leases. While the store is unavailable they expire without a renewal."""
        with contextlib.suppress(StoreError):
            await self._breaker.call("renew", self._store.renew, leases)

    async def aclose(self) -> None:
        """Stop renewing leases, refund prefetched units, and wait for calls in the background."""
        await self._lease_renewer.aclose()
        await self._prefetcher.aclose()
        await self._tasks.wait()
