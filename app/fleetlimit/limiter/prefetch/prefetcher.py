"""Prefetcher: acquires units ahead for the buckets that are in demand, and refunds unused units.

At most one store call for a bucket is in flight; `bucket.py` decides how many units it acquires and
which waiting checks it serves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import Algorithm
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.plan import BucketsId, Plan, PlannedPrefetch
from fleetlimit.limiter.ports import Clock, Sleep
from fleetlimit.limiter.prefetch.bucket import (
    Prefetch,
    PrefetchedBucket,
    Waiter,
    fitting,
)
from fleetlimit.limiter.reservation import Adjust
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.limiter.tasks import TaskSet

MAX_BUCKETS: Final = 4_096
RECLAIM_INTERVAL_SECONDS: Final = 1.0
"""Interval at which expired prefetches are refunded."""

Acquire = Callable[[Sequence[Charge]], Awaitable[AcquireResult]]


class Prefetcher:
    """Spends units that it has acquired ahead.

    Args:
        acquire: Acquires charges from the store.
        adjust: Refunds unused units; never raises.
        bucket_events: Reports when buckets are reset or policies replaced.
        sample: Records each prefetch for the audit.
        clock: Clock of this process, by which prefetches expire.
        sleep: Pause between two refunds of expired prefetches.
        max_buckets: Bound on the buckets with prefetch state; the oldest one is dropped first.
    """

    def __init__(
        self,
        acquire: Acquire,
        adjust: Adjust,
        bucket_events: BucketEvents,
        sample: UsageSample,
        clock: Clock,
        *,
        sleep: Sleep = asyncio.sleep,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._acquire = acquire
        self._adjust = adjust
        self._sample = sample
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: dict[BucketsId, PrefetchedBucket] = {}
        # Monotonic microseconds of the last check of buckets without a prefetch.
        self._asked: BoundedCache[BucketsId, int] = BoundedCache(max_buckets)
        self._retired: list[Prefetch] = []
        self._refill_tasks = TaskSet()
        self._reclaim_task = PeriodicTask(
            self.reclaim, RECLAIM_INTERVAL_SECONDS, failure_event="prefetch.failed", sleep=sleep
        )
        bucket_events.subscribe(on_reset=self.drop, on_policies_replaced=self.retire_all)

    def bucket_for(self, planned: PlannedPrefetch) -> PrefetchedBucket | None:
        """Return the state to spend prefetched units from; None if the check calls the store.

        On demand, buckets are prefetched from their second check within a lifetime on.
        """
        bucket = self._buckets.get(planned.id)
        if bucket is None and (not planned.terms.on_demand or self._is_in_demand(planned)):
            bucket = self._open_bucket(planned)
        return bucket

    def _is_in_demand(self, planned: PlannedPrefetch) -> bool:
        mono_now_us = self._clock.monotonic_us()
        mono_asked_at_us = self._asked.get(planned.id)
        self._asked.put(planned.id, mono_now_us)
        return (
            mono_asked_at_us is not None
            and mono_now_us - mono_asked_at_us < planned.terms.lifetime_us
        )

    def holds(self, planned: PlannedPrefetch) -> bool:
        """Return whether this replica holds the units of a check."""
        bucket = self._buckets.get(planned.id)
        return bucket is not None and bucket.holds(planned.cost, self._clock.monotonic_us())

    async def acquire(self, plan: Plan, cost: int, bucket: PrefetchedBucket) -> AcquireResult:
        """Spend the charges of a plan, from a prefetch if there is one.

        Args:
            plan: The plan.
            cost: Cost of the request.
            bucket: The state that `bucket_for` has returned.

        Raises:
            StoreError: There is no prefetch, and the store is unavailable.
        """
        if not bucket.waiters:
            result = bucket.spend(cost, self._clock.monotonic_us())
            if result is not None:
                return result
        return await self._wait(bucket, Waiter(plan, cost))

    def _open_bucket(self, planned: PlannedPrefetch) -> PrefetchedBucket:
        if len(self._buckets) >= self._max_buckets:
            self._retired += self._buckets.pop(next(iter(self._buckets))).retire()
        keys, quotas = planned.id
        bucket = PrefetchedBucket(frozenset(keys), quotas, planned.terms)
        self._buckets[planned.id] = bucket
        return bucket

    async def _wait(self, bucket: PrefetchedBucket, waiter: Waiter) -> AcquireResult:
        # No effect while it runs; its event loop may have been closed.
        self._reclaim_task.start()
        bucket.waiters.append(waiter)
        if not bucket.refilling:
            bucket.refilling = True
            # Runs in its own task, so that cancelling one waiter does not cancel the store call
            # that the others share.
            self._refill_tasks.spawn(self._refill(bucket))
        try:
            return await waiter.reply
        except asyncio.CancelledError:
            bucket.return_units(waiter)
            self._collect_retired(bucket)
            raise

    async def _refill(self, bucket: PrefetchedBucket) -> None:
        """Acquire prefetches until no check waits."""
        try:
            while bucket.oldest_waiter() is not None:
                await self._refill_once(bucket)
                self._collect_retired(bucket)
        except Exception as error:  # noqa: BLE001 - without this, the waiters would wait forever
            bucket.fail_waiters(error)
        finally:
            bucket.refilling = False

    def _collect_retired(self, bucket: PrefetchedBucket) -> None:
        """Refund units that a bucket received after it was retired, from a call in flight."""
        if bucket.retired:
            self._retired += bucket.retire()

    async def _refill_once(self, bucket: PrefetchedBucket) -> None:
        mono_now_us = self._clock.monotonic_us()
        self._retired += bucket.pop_expired(mono_now_us)
        if bucket.serve_waiters(mono_now_us):
            return
        waiters = [each for each in bucket.waiters if not each.reply.done()]
        plan, cost = waiters[0].plan, waiters[0].cost
        size = bucket.prefetch_size(waiters, mono_now_us)
        while True:
            mono_sent_at_us = self._clock.monotonic_us()
            lifetime_us = bucket.lifetime_us(size, waiters, mono_now_us)
            charges = _scale_charges(plan, size, lifetime_us)
            result = await self._acquire(charges)
            if result.spent:
                break
            if size == cost:
                bucket.deny_like_first(result, mono_sent_at_us)
                return
            fits = fitting(waiters, bucket.on_denied(result, mono_sent_at_us))
            # Each further call requests less, so that the loop ends.
            size = fits if fits < size else cost
        self._sample.record(charges, result)
        mono_expires_at_us = _mono_expires_at_us(charges, result, mono_sent_at_us, lifetime_us)
        prefetch = Prefetch(charges, result, mono_sent_at_us, mono_expires_at_us, size)
        bucket.add(prefetch)
        mono_now_us = self._clock.monotonic_us()
        # Checks that arrived before the call are served even if the prefetch has expired by now.
        for waiter in waiters:
            if waiter.reply.done():
                continue
            if waiter.cost > prefetch.left:
                break
            bucket.fulfil(waiter, prefetch, mono_now_us)

    def drop(self, keys: Sequence[str]) -> None:
        """Stop spending the prefetches of buckets that were deleted."""
        for bucket_id, bucket in list(self._buckets.items()):
            if not bucket.keys.isdisjoint(keys):
                self._retired += self._buckets.pop(bucket_id).retire()

    def retire_all(self) -> None:
        """Stop spending the prefetches; the next run of the periodic task refunds them."""
        for bucket in self._buckets.values():
            self._retired += bucket.retire()
        self._buckets.clear()

    async def reclaim(self) -> None:
        """Refund the unused units of expired prefetches, and drop idle buckets."""
        mono_now_us = self._clock.monotonic_us()
        for bucket_id, bucket in list(self._buckets.items()):
            self._retired += bucket.pop_expired(mono_now_us)
            if bucket.is_idle(mono_now_us):
                self._retired += self._buckets.pop(bucket_id).retire()
        retired, self._retired = self._retired, []
        refunds = [each for prefetch in retired for each in prefetch.refunds(mono_now_us)]
        if refunds:
            await self._adjust(refunds)

    async def aclose(self) -> None:
        """Serve the waiters, and refund all unused units."""
        await self._refill_tasks.wait()
        await self._reclaim_task.stop()
        self.retire_all()
        await self.reclaim()


def _scale_charges(plan: Plan, cost: int, lifetime_us: int) -> tuple[Charge, ...]:
    """Return the charges of a plan at another cost, whose units may be spent for a time."""
    return tuple(
        [
            replace(
                each,
                units=cost * each.quota.cost,
                ahead_us=lifetime_us if each.quota.algorithm is Algorithm.TOKEN_BUCKET else 0,
            )
            for each in plan.charges
        ]
    )


def _mono_expires_at_us(
    charges: Sequence[Charge], result: AcquireResult, mono_sent_at_us: int, lifetime_us: int
) -> int:
    """Return when a prefetch expires: after its lifetime, or at the end of the first window."""
    windows_us = [
        status.reset_after_us
        for charge, status in zip(charges, result.statuses, strict=True)
        if charge.quota.algorithm is Algorithm.FIXED_WINDOW
    ]
    return mono_sent_at_us + min([lifetime_us, *windows_us])
