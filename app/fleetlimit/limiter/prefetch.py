"""Slices of hot buckets: taken from the store in one call, and spent here without one.

A slice grows with what is asked: it is twice the last one if that was used up in time, and as much
as was used of it if not. What nobody uses is so at most about what is used. Of each bucket one call
is under way at a time; who comes meanwhile waits for it, and is served in the order of coming.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.prefetch import PrefetchTerms, refundable_units
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import AcquireResult, Clock, Sleep
from fleetlimit.limiter.reservation import Adjust

MAX_REFUND_LATENCY_US = SECOND_US
"""What is given back may be so long on its way to the store, and gained by the bucket meanwhile."""


class Batch:
    """Cost that was taken in one call.

    Args:
        charges: What was taken, from each bucket.
        result: What the store said.
        mono_sent_at_us: When it was asked, on this process's clock.
        mono_expires_at_us: From when on the slice is not used.
        cost: How much it was, as the cost of requests.
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

    def refunds(self, now_us: int) -> list[Adjustment]:
        """Return what gives back the part that is left, unless the buckets have gained it anew."""
        age_us = now_us - self.mono_sent_at_us + MAX_REFUND_LATENCY_US
        # Once: what is put back later, by one who had gone away, does not count again.
        left, self.left = self.left, 0
        found = []
        for place, charge in enumerate(self.charges):
            window_us = self.result.statuses[place].reset_after_us
            units = refundable_units(charge.quota, left * charge.quota.cost, age_us, window_us)
            if units:
                found.append(charge.adjustment(-units, self.result.acquired_at_us(place)))
        return found


class Waiter:
    """A check that waits for a slice.

    Args:
        plan: What it asks.
        cost: What it costs.
    """

    __slots__ = ("batch", "cost", "plan", "reply")

    def __init__(self, plan: Plan, cost: int) -> None:
        self.plan = plan
        self.cost = cost
        self.reply: asyncio.Future[AcquireResult] = asyncio.get_running_loop().create_future()
        self.batch: Batch | None = None


class PrefetchedBucket:
    """The buckets of one policy and key.

    Args:
        keys: The buckets' keys in the store.
        terms: How large a slice may be, and how old.
    """

    __slots__ = (
        *(
            "_expires_at_us",
            "_scarce_until_us",
            "_store_remaining",
            "_last_statuses",
            "_last_status_at_us",
            "_next_size",
        ),
        *("keys", "refilling", "batches", "terms", "waiters"),
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

    def spend(self, cost: int, now_us: int) -> AcquireResult | None:
        """Spend from the oldest slice that has enough, if there is one."""
        slice_ = self._batch_for(cost, now_us)
        return self._spend_from(slice_, cost, now_us) if slice_ is not None else None

    def _batch_for(self, cost: int, now_us: int) -> Batch | None:
        for each in self.batches:
            if each.left >= cost and now_us < each.mono_expires_at_us:
                return each
        return None

    def _spend_from(self, slice_: Batch, cost: int, now_us: int) -> AcquireResult:
        slice_.left -= cost
        if not slice_.left:
            self.batches.remove(slice_)
            self._next_size = min(self.terms.max_cost, 2 * max(self._next_size, slice_.cost))
        return slice_.result._replace(statuses=self._statuses(now_us), prefetched=True)

    def _statuses(self, now_us: int) -> tuple[BucketStatus, ...]:
        """Return what the store said last, with what is left here and the time that has passed."""
        age_us = now_us - self._last_status_at_us
        left = sum([each.left for each in self.batches if now_us < each.mono_expires_at_us])
        return tuple(
            [
                BucketStatus(
                    True,  # noqa: FBT003 - a named tuple, whose fields are in this order
                    min(quota.burst, verdict.remaining + left * quota.cost),
                    0,
                    max(1, verdict.next_unit_after_us - age_us),
                    max(1, verdict.reset_after_us - age_us),
                )
                for quota, verdict in zip(self.terms.quotas, self._last_statuses, strict=True)
            ]
        )

    def oldest_waiter(self) -> Waiter | None:
        """Return who has waited longest, past those who went away."""
        while self.waiters and self.waiters[0].reply.done():
            self.waiters.popleft()
        return self.waiters[0] if self.waiters else None

    def batch_size(self, demand: int, now_us: int) -> int:
        """Return how much to ask for, when the first who waits is to have it all the same.

        Args:
            demand: What all who wait ask for together.
            now_us: The time.
        """
        cost = self.waiters[0].cost
        if now_us < self._scarce_until_us:
            # A slice was refused: nothing is taken that nobody waits for, or that is not there.
            return max(cost, min(demand, self._store_remaining))
        return max(cost, min(self.terms.max_cost, max(demand, self._next_size)))

    def add(self, new: Batch) -> None:
        """Take a slice in."""
        self.batches.append(new)
        self._last_statuses, self._last_status_at_us, self._expires_at_us = (
            new.result.statuses,
            new.mono_sent_at_us,
            new.mono_expires_at_us,
        )
        self._store_remaining = self._remaining_cost(new.result)

    def _remaining_cost(self, taken: AcquireResult) -> int:
        """Return the cost that the store has left for requests."""
        pairs = zip(self.terms.quotas, taken.statuses, strict=True)
        return min([verdict.remaining // quota.cost for quota, verdict in pairs])

    def serve_waiters(self, now_us: int) -> bool:
        """Serve those who wait from what is there, in their order, and tell whether any was."""
        served = False
        while (head := self.oldest_waiter()) is not None:
            found = self._batch_for(head.cost, now_us)
            if found is None:
                break
            self.fulfil(head, found, now_us)
            served = True
        return served

    def fulfil(self, waiter: Waiter, slice_: Batch, now_us: int) -> None:
        """Serve one who waits from a slice that has enough."""
        waiter.batch = slice_
        waiter.reply.set_result(self._spend_from(slice_, waiter.cost, now_us))

    def return_units(self, waiter: Waiter) -> None:
        """Take back what was given to one who had gone away."""
        if waiter.batch is not None:
            waiter.batch.left += waiter.cost
            if waiter.batch not in self.batches:
                self.batches.append(waiter.batch)

    def on_refused(self, taken: AcquireResult, now_us: int) -> int:
        """Take note that a slice was refused, and return how much would not have been.

        Args:
            taken: What the store said.
            now_us: When it was asked.
        """
        self._next_size = 1
        self._store_remaining = self._remaining_cost(taken)
        self._scarce_until_us = now_us + max(verdict.retry_after_us for verdict in taken.statuses)
        return self._store_remaining

    def deny_like_first(self, taken: AcquireResult) -> None:
        """Refuse the first who waits, and all who ask for the same: one call says it of all."""
        charges = self.waiters[0].plan.charges
        alike = [each for each in self.waiters if each.plan.charges == charges]
        self.waiters = deque(each for each in self.waiters if each.plan.charges != charges)
        for each in alike:
            if not each.reply.done():
                each.reply.set_result(taken)

    def fail_waiters(self, error: Exception) -> None:
        """Tell all who wait that there is no answer."""
        while (head := self.oldest_waiter()) is not None:
            head.reply.set_exception(error)

    def pop_expired(self, now_us: int) -> list[Batch]:
        """Return the slices that have ended, and hold them no more."""
        found = [each for each in self.batches if now_us >= each.mono_expires_at_us]
        for each in found:
            self.batches.remove(each)
            self._next_size = max(1, each.cost - each.left)
        return found

    def is_idle(self, now_us: int) -> bool:
        """Tell whether nothing is known of the bucket that the next check needs."""
        until_us = max(self._scarce_until_us, self._expires_at_us)
        return not self.batches and not self.waiters and now_us >= until_us


MAX_BUCKETS = 4_096
RECLAIM_INTERVAL_SECONDS = 1.0
"""How often what was not used is looked for."""

Acquire = Callable[[Sequence[Charge]], Awaitable[AcquireResult]]
_BucketId = tuple[str, tuple[Quota, ...]]


class Prefetcher:
    """Takes slices, and spends them.

    Args:
        acquire: Takes charges from the store.
        adjust: Gives back what was not used; it never raises.
        sample: Is told of each slice that was taken.
        clock: The process's own time, by which slices end.
        sleep: How to wait between looks at what was not used.
        max_buckets: Buckets of which slices are held; the first that became hot makes room.
    """

    def __init__(
        self,
        acquire: Acquire,
        adjust: Adjust,
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
        self._reclaim_task = PeriodicTask(self.reclaim, RECLAIM_INTERVAL_SECONDS, sleep)
        self._started = False

    async def acquire(self, plan: Plan, terms: PrefetchTerms) -> AcquireResult:
        """Spend the charges of a plan, all of one policy, from a slice if there is one.

        Raises:
            StoreError: There is none, and the store is away.
        """
        first = plan.charges[0]
        cost = first.units // first.quota.cost
        place = first.key, terms.quotas
        hot = self._buckets.get(place) or self._open_bucket(place, plan, terms)
        if not hot.waiters:
            taken = hot.spend(cost, self._clock.monotonic_us())
            if taken is not None:
                return taken
        return await self._wait(hot, Waiter(plan, cost))

    def _open_bucket(
        self, place: _BucketId, plan: Plan, slicing: PrefetchTerms
    ) -> PrefetchedBucket:
        if not self._started:
            self._reclaim_task.start()
            self._started = True
        if len(self._buckets) >= self._max_buckets:
            self._retired += self._buckets.pop(next(iter(self._buckets))).batches
        hot = self._buckets[place] = PrefetchedBucket(
            frozenset(each.key for each in plan.charges), slicing
        )
        return hot

    async def _wait(self, hot: PrefetchedBucket, waiter: Waiter) -> AcquireResult:
        hot.waiters.append(waiter)
        if not hot.refilling:
            hot.refilling = True
            # Not by one of those who wait: a client that goes away must take nobody's call along.
            task = asyncio.get_running_loop().create_task(self._refill(hot))
            self._refill_tasks.add(task)
            task.add_done_callback(self._refill_tasks.discard)
        try:
            return await waiter.reply
        except asyncio.CancelledError:
            hot.return_units(waiter)
            raise

    async def _refill(self, hot: PrefetchedBucket) -> None:
        """Serve those who wait until nobody does."""
        try:
            while hot.oldest_waiter() is not None:
                await self._refill_once(hot)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            hot.fail_waiters(error)
        finally:
            hot.refilling = False

    async def _refill_once(self, hot: PrefetchedBucket) -> None:
        now_us = self._clock.monotonic_us()
        self._retired += hot.pop_expired(now_us)
        if hot.serve_waiters(now_us):
            return
        asked = [each for each in hot.waiters if not each.reply.done()]
        demand = sum(each.cost for each in asked)
        amount = hot.batch_size(demand, now_us)
        while True:
            sent_us = self._clock.monotonic_us()
            charges = _scale_charges(asked[0].plan, amount)
            taken = await self._acquire(charges)
            if taken.spent:
                break
            if amount == asked[0].cost:
                hot.deny_like_first(taken)
                return
            amount = max(asked[0].cost, min(hot.on_refused(taken, sent_us), demand))
        self._sample.record(asked[0].plan._replace(charges=charges), taken)
        new = Batch(charges, taken, sent_us, _expiry(hot.terms, charges, taken, sent_us), amount)
        hot.add(new)
        now_us = self._clock.monotonic_us()
        # Who asked before the store decided is served, however long the answer took.
        for each in asked:
            if each.reply.done():
                continue
            if each.cost > new.left:
                break
            hot.fulfil(each, new, now_us)

    def drop(self, keys: Sequence[str]) -> None:
        """Drop slices of buckets that the store forgot, where there is nothing to give back to."""
        for place, hot in list(self._buckets.items()):
            if not hot.keys.isdisjoint(keys):
                del self._buckets[place]

    def retire_all(self) -> None:
        """Use none of the slices any more, and give them back before long."""
        for hot in self._buckets.values():
            self._retired += hot.batches
        self._buckets.clear()

    async def reclaim(self) -> None:
        """Give back what was not used in time, and forget buckets that are not hot any more."""
        now_us = self._clock.monotonic_us()
        for place, hot in list(self._buckets.items()):
            self._retired += hot.pop_expired(now_us)
            if hot.is_idle(now_us):
                del self._buckets[place]
        unused, self._retired = self._retired, []
        back = [each for slice_ in unused for each in slice_.refunds(now_us)]
        if back:
            await self._adjust(back)

    async def aclose(self) -> None:
        """Serve those who wait, and give back all that was not used."""
        await self._reclaim_task.stop()
        if self._refill_tasks:
            await asyncio.wait(self._refill_tasks)
        self.retire_all()
        await self.reclaim()


def _scale_charges(plan: Plan, cost: int) -> tuple[Charge, ...]:
    """Return the charges of a plan at another cost."""
    return tuple([each._replace(units=cost * each.quota.cost) for each in plan.charges])


def _expiry(
    slicing: PrefetchTerms, charges: Sequence[Charge], taken: AcquireResult, sent_us: int
) -> int:
    """Return when a slice ends: with its life, or with the first of its windows."""
    lives = [
        verdict.reset_after_us
        for charge, verdict in zip(charges, taken.statuses, strict=True)
        if charge.quota.algorithm is Algorithm.FIXED_WINDOW
    ]
    return sent_us + min([slicing.lifetime_us, *lives])
