"""Prefetching: units are acquired ahead in one store call and spent locally.

The size of a batch follows the demand. After a batch that was used up in time the next one is twice
as large; after one that expired the next one is as large as the part that was used. Unused units
are therefore at most about as many as used ones. At most one store call per bucket is in flight;
concurrent checks queue behind it in FIFO order.

All instants are monotonic microseconds, except where `acquired_at_us` says store time.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.prefetch import PrefetchTerms, refundable_units
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import AcquireResult, Clock, Sleep
from fleetlimit.limiter.reservation import Adjust

MAX_REFUND_LATENCY_US: Final = SECOND_US
"""Upper bound on the latency of a refund. Units that the bucket may have refilled by then are not
refunded, so that nothing is credited twice."""


class Batch:
    """Units that were acquired in one call.

    Args:
        charges: The charges, one for each bucket.
        result: The store's reply.
        mono_sent_at_us: When the request was sent.
        mono_expires_at_us: From when on the batch must not be spent.
        cost: Size of the batch, in units of a request's cost.
    """

    __slots__ = ("charges", "cost", "left", "mono_expires_at_us", "mono_sent_at_us", "result")

    def __init__(
        self,
        charges: Sequence[Charge],
        result: AcquireResult,
        mono_sent_at_us: int,
        mono_expires_at_us: int,
        cost: int,
    ) -> None:
        self.charges = charges
        self.result = result
        self.mono_sent_at_us = mono_sent_at_us
        self.mono_expires_at_us = mono_expires_at_us
        self.cost = cost
        self.left = cost

    def refunds(self, mono_now_us: int) -> list[Adjustment]:
        """Return the refunds of the unused units that the buckets cannot have refilled yet."""
        age_us = mono_now_us - self.mono_sent_at_us + MAX_REFUND_LATENCY_US
        # Zero `left`, so that units returned later by a cancelled waiter are not refunded again.
        left, self.left = self.left, 0
        refunds = []
        for index, charge in enumerate(self.charges):
            window_left_us = self.result.statuses[index].reset_after_us
            units = refundable_units(charge.quota, left * charge.quota.cost, age_us, window_left_us)
            if units:
                refunds.append(charge.adjustment(-units, self.result.acquired_at_us(index)))
        return refunds


class Waiter:
    """A check that waits for units.

    Args:
        plan: Plan of the check.
        cost: Cost of the request.
    """

    __slots__ = ("batch", "cost", "plan", "reply")

    def __init__(self, plan: Plan, cost: int) -> None:
        self.plan = plan
        self.cost = cost
        self.reply: asyncio.Future[AcquireResult] = asyncio.get_running_loop().create_future()
        self.batch: Batch | None = None


class PrefetchedBucket:
    """Prefetch state of the buckets of one policy and key: batches and waiting checks.

    Args:
        keys: Keys of the buckets in the store.
        terms: Terms of prefetching.
    """

    __slots__ = (
        "_expires_at_us",
        "_last_status_at_us",
        "_last_statuses",
        "_next_size",
        "_scarce_until_us",
        "_store_remaining",
        "batches",
        "keys",
        "refilling",
        "terms",
        "waiters",
    )

    def __init__(self, keys: frozenset[str], terms: PrefetchTerms) -> None:
        self.keys = keys
        self.terms = terms
        self.batches: list[Batch] = []
        self.waiters: deque[Waiter] = deque()
        self.refilling = False
        self._last_statuses: tuple[BucketStatus, ...] = ()
        self._last_status_at_us = 0
        self._expires_at_us = 0
        self._next_size = 1
        self._store_remaining = 0
        self._scarce_until_us = 0

    def spend(self, cost: int, mono_now_us: int) -> AcquireResult | None:
        """Spend a cost from the oldest batch that has enough units; None if none has."""
        batch = self._batch_for(cost, mono_now_us)
        return self._spend_from(batch, cost, mono_now_us) if batch is not None else None

    def _batch_for(self, cost: int, mono_now_us: int) -> Batch | None:
        for batch in self.batches:
            if batch.left >= cost and mono_now_us < batch.mono_expires_at_us:
                return batch
        return None

    def _spend_from(self, batch: Batch, cost: int, mono_now_us: int) -> AcquireResult:
        batch.left -= cost
        if not batch.left:
            self.batches.remove(batch)
            self._next_size = min(self.terms.max_cost, 2 * max(self._next_size, batch.cost))
        result = batch.result
        return AcquireResult(
            result.store_now_us,
            self._statuses(mono_now_us),
            result.spent,
            result.acquired_at_us_by_charge,
            prefetched=True,
        )

    def _statuses(self, mono_now_us: int) -> tuple[BucketStatus, ...]:
        """Return the last statuses, with the units that are left here and the time passed."""
        age_us = mono_now_us - self._last_status_at_us
        left = sum([each.left for each in self.batches if mono_now_us < each.mono_expires_at_us])
        return tuple(
            [
                BucketStatus(
                    allowed=True,
                    remaining=min(quota.burst, status.remaining + left * quota.cost),
                    retry_after_us=0,
                    next_unit_after_us=max(1, status.next_unit_after_us - age_us),
                    reset_after_us=max(1, status.reset_after_us - age_us),
                )
                for quota, status in zip(self.terms.quotas, self._last_statuses, strict=True)
            ]
        )

    def oldest_waiter(self) -> Waiter | None:
        """Return the waiter that has waited longest, and drop cancelled ones before it."""
        while self.waiters and self.waiters[0].reply.done():
            self.waiters.popleft()
        return self.waiters[0] if self.waiters else None

    def batch_size(self, demand: int, mono_now_us: int) -> int:
        """Return the size of the next batch: at least the cost of the oldest waiter.

        Args:
            demand: Sum of the costs of all waiters.
            mono_now_us: Monotonic microseconds.
        """
        cost = self.waiters[0].cost
        if mono_now_us < self._scarce_until_us:
            # After a denied batch acquire only what is waited for and what the store has left.
            return max(cost, min(demand, self._store_remaining))
        return max(cost, min(self.terms.max_cost, max(demand, self._next_size)))

    def add(self, batch: Batch) -> None:
        """Add a batch, and remember its statuses."""
        self.batches.append(batch)
        self._last_statuses = batch.result.statuses
        self._last_status_at_us = batch.mono_sent_at_us
        self._expires_at_us = batch.mono_expires_at_us
        self._store_remaining = self._remaining_cost(batch.result)

    def _remaining_cost(self, result: AcquireResult) -> int:
        """Return the cost of requests that the store has units left for."""
        pairs = zip(self.terms.quotas, result.statuses, strict=True)
        return min([status.remaining // quota.cost for quota, status in pairs])

    def serve_waiters(self, mono_now_us: int) -> bool:
        """Serve waiters in order from the batches, and return whether one was served."""
        served = False
        while (waiter := self.oldest_waiter()) is not None:
            batch = self._batch_for(waiter.cost, mono_now_us)
            if batch is None:
                break
            self.fulfil(waiter, batch, mono_now_us)
            served = True
        return served

    def fulfil(self, waiter: Waiter, batch: Batch, mono_now_us: int) -> None:
        """Serve a waiter from a batch that has enough units."""
        waiter.batch = batch
        waiter.reply.set_result(self._spend_from(batch, waiter.cost, mono_now_us))

    def return_units(self, waiter: Waiter) -> None:
        """Return the units of a waiter that was cancelled to their batch."""
        if waiter.batch is not None:
            waiter.batch.left += waiter.cost
            if waiter.batch not in self.batches:
                self.batches.append(waiter.batch)

    def on_refused(self, result: AcquireResult, mono_sent_at_us: int) -> int:
        """Record that a batch was denied, and return the cost that the store has units left for.

        Args:
            result: The store's reply.
            mono_sent_at_us: When the request was sent.
        """
        self._next_size = 1
        self._store_remaining = self._remaining_cost(result)
        longest_us = max(status.retry_after_us for status in result.statuses)
        self._scarce_until_us = mono_sent_at_us + longest_us
        return self._store_remaining

    def deny_like_first(self, result: AcquireResult) -> None:
        """Deny the oldest waiter, and all waiters with the same charges."""
        charges = self.waiters[0].plan.charges
        denied = [each for each in self.waiters if each.plan.charges == charges]
        self.waiters = deque(each for each in self.waiters if each.plan.charges != charges)
        for waiter in denied:
            if not waiter.reply.done():
                waiter.reply.set_result(result)

    def fail_waiters(self, error: Exception) -> None:
        """Raise an error in all waiters."""
        while (waiter := self.oldest_waiter()) is not None:
            waiter.reply.set_exception(error)

    def pop_expired(self, mono_now_us: int) -> list[Batch]:
        """Remove expired batches and return them."""
        expired = [each for each in self.batches if mono_now_us >= each.mono_expires_at_us]
        for batch in expired:
            self.batches.remove(batch)
            self._next_size = max(1, batch.cost - batch.left)
        return expired

    def is_idle(self, mono_now_us: int) -> bool:
        """Return whether the state holds nothing that the next check needs."""
        until_us = max(self._scarce_until_us, self._expires_at_us)
        return not self.batches and not self.waiters and mono_now_us >= until_us


MAX_BUCKETS: Final = 4_096
RECLAIM_INTERVAL_SECONDS: Final = 1.0
"""Interval at which expired batches are refunded."""

Acquire = Callable[[Sequence[Charge]], Awaitable[AcquireResult]]
_BucketId = tuple[str, tuple[Quota, ...]]
"""Key of the first bucket, and the quotas."""


class Prefetcher:
    """Acquires batches of units, and spends them.

    Args:
        acquire: Acquires charges from the store.
        adjust: Refunds unused units; never raises.
        bucket_events: Reports when buckets are reset or policies replaced.
        sample: Records each batch for the audit.
        clock: Clock of this process, by which batches expire.
        sleep: Pause between two refunds of expired batches.
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
        self._buckets: dict[_BucketId, PrefetchedBucket] = {}
        self._retired: list[Batch] = []
        self._refill_tasks: set[asyncio.Task[None]] = set()
        self._reclaim_task = PeriodicTask(
            self.reclaim, RECLAIM_INTERVAL_SECONDS, failure_event="prefetch.failed", sleep=sleep
        )
        self._started = False
        bucket_events.subscribe(on_reset=self.drop, on_policies_replaced=self.retire_all)

    async def acquire(self, plan: Plan, terms: PrefetchTerms) -> AcquireResult:
        """Spend the charges of a plan with one policy, from a batch if there is one.

        Raises:
            StoreError: There is no batch, and the store is unavailable.
        """
        first = plan.charges[0]
        cost = first.units // first.quota.cost
        bucket_id = first.key, terms.quotas
        bucket = self._buckets.get(bucket_id) or self._open_bucket(bucket_id, plan, terms)
        if not bucket.waiters:
            result = bucket.spend(cost, self._clock.monotonic_us())
            if result is not None:
                return result
        return await self._wait(bucket, Waiter(plan, cost))

    def _open_bucket(
        self, bucket_id: _BucketId, plan: Plan, terms: PrefetchTerms
    ) -> PrefetchedBucket:
        if not self._started:
            self._started = True
            self._reclaim_task.start()
        if len(self._buckets) >= self._max_buckets:
            self._retired += self._buckets.pop(next(iter(self._buckets))).batches
        bucket = PrefetchedBucket(frozenset(each.key for each in plan.charges), terms)
        self._buckets[bucket_id] = bucket
        return bucket

    async def _wait(self, bucket: PrefetchedBucket, waiter: Waiter) -> AcquireResult:
        bucket.waiters.append(waiter)
        if not bucket.refilling:
            bucket.refilling = True
            # Runs in its own task, so that cancelling one waiter does not cancel the store call
            # that the others share.
            task = asyncio.get_running_loop().create_task(self._refill(bucket))
            self._refill_tasks.add(task)
            task.add_done_callback(self._refill_tasks.discard)
        try:
            return await waiter.reply
        except asyncio.CancelledError:
            bucket.return_units(waiter)
            raise

    async def _refill(self, bucket: PrefetchedBucket) -> None:
        """Acquire batches until no check waits."""
        try:
            while bucket.oldest_waiter() is not None:
                await self._refill_once(bucket)
        except Exception as error:  # noqa: BLE001 - without this, the waiters would wait forever
            bucket.fail_waiters(error)
        finally:
            bucket.refilling = False

    async def _refill_once(self, bucket: PrefetchedBucket) -> None:
        mono_now_us = self._clock.monotonic_us()
        self._retired += bucket.pop_expired(mono_now_us)
        if bucket.serve_waiters(mono_now_us):
            return
        waiters = [each for each in bucket.waiters if not each.reply.done()]
        plan, cost = waiters[0].plan, waiters[0].cost
        demand = sum(each.cost for each in waiters)
        size = bucket.batch_size(demand, mono_now_us)
        while True:
            mono_sent_at_us = self._clock.monotonic_us()
            charges = _scale_charges(plan, size)
            result = await self._acquire(charges)
            if result.spent:
                break
            if size == cost:
                bucket.deny_like_first(result)
                return
            size = max(cost, min(bucket.on_refused(result, mono_sent_at_us), demand))
        self._sample.record(charges, result)
        expiry_us = _expiry(bucket.terms, charges, result, mono_sent_at_us)
        batch = Batch(charges, result, mono_sent_at_us, expiry_us, size)
        bucket.add(batch)
        mono_now_us = self._clock.monotonic_us()
        # Checks that arrived before the call are served even if the batch has expired by now.
        for waiter in waiters:
            if waiter.reply.done():
                continue
            if waiter.cost > batch.left:
                break
            bucket.fulfil(waiter, batch, mono_now_us)

    def drop(self, keys: Sequence[str]) -> None:
        """Drop the batches of buckets that were deleted, without a refund."""
        for bucket_id, bucket in list(self._buckets.items()):
            if not bucket.keys.isdisjoint(keys):
                del self._buckets[bucket_id]

    def retire_all(self) -> None:
        """Stop spending the batches; the next run of the periodic task refunds them."""
        for bucket in self._buckets.values():
            self._retired += bucket.batches
        self._buckets.clear()

    async def reclaim(self) -> None:
        """Refund the unused units of expired batches, and drop idle buckets."""
        mono_now_us = self._clock.monotonic_us()
        for bucket_id, bucket in list(self._buckets.items()):
            self._retired += bucket.pop_expired(mono_now_us)
            if bucket.is_idle(mono_now_us):
                del self._buckets[bucket_id]
        retired, self._retired = self._retired, []
        refunds = [each for batch in retired for each in batch.refunds(mono_now_us)]
        if refunds:
            await self._adjust(refunds)

    async def aclose(self) -> None:
        """Serve the waiters, and refund all unused units."""
        await self._reclaim_task.stop()
        if self._refill_tasks:
            await asyncio.wait(self._refill_tasks)
        self.retire_all()
        await self.reclaim()


def _scale_charges(plan: Plan, cost: int) -> tuple[Charge, ...]:
    """Return the charges of a plan at another cost."""
    return tuple([replace(each, units=cost * each.quota.cost) for each in plan.charges])


def _expiry(
    terms: PrefetchTerms, charges: Sequence[Charge], result: AcquireResult, mono_sent_at_us: int
) -> int:
    """Return when a batch expires: after its lifetime, or at the end of the first window."""
    windows_us = [
        status.reset_after_us
        for charge, status in zip(charges, result.statuses, strict=True)
        if charge.quota.algorithm is Algorithm.FIXED_WINDOW
    ]
    return mono_sent_at_us + min([terms.lifetime_us, *windows_us])
