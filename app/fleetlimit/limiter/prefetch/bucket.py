"""Prefetched bucket: the units that this replica holds ahead for a policy and key.

A prefetch is the units of one store call. Checks spend from the oldest prefetch that has enough
units. Checks that find too few units wait, and are served in FIFO order. The size of a prefetch
follows the demand. After a prefetch that was used up in time the next one is twice as large; after
one that expired the next one is as large as the part that was used. Unused units are therefore at
most about as many as used ones. On demand, a prefetch is at most what this replica uses up at its
rate in half of the longest lifetime, so that few units expire.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import BucketStatus, Source
from fleetlimit.core.prefetch import PrefetchTerms, refundable_units
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US, Algorithm, Quota
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.store_replies import AcquireResult

MAX_REFUND_LATENCY_US: Final = SECOND_US
"""Upper bound on the latency of a refund. Units that the bucket may have refilled by then are not
refunded, so that nothing is credited twice."""

MIN_LIFETIME_US: Final = 10 * MILLISECOND_US
"""Shortest time in which prefetched units may be spent: some turns of a busy event loop."""

_PLENTY: Final = 4
"""Largest prefetches that the store has left while units are acquired on demand."""


class Prefetch:
    """Units that were acquired ahead in one call.

    Args:
        charges: The charges, one for each bucket.
        result: The store's reply.
        mono_sent_at_us: Monotonic microseconds when the request was sent.
        mono_expires_at_us: Monotonic microseconds from which on the prefetch must not be spent.
        cost: Size of the prefetch, in units of a request's cost.

    Attributes:
        left: Part of `cost` that is unused.
    """

    __slots__ = (
        "charges",
        "cost",
        "left",
        "mono_expires_at_us",
        "mono_sent_at_us",
        "result",
    )

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
        """Return the refunds of the unused units that the buckets cannot have refilled yet.

        The store refunds nothing to a bucket that was reset since.
        """
        age_us = mono_now_us - self.mono_sent_at_us + MAX_REFUND_LATENCY_US
        # Zero `left`, so that units returned later by a cancelled waiter are not refunded again.
        left, self.left = self.left, 0
        refunds = []
        for index, charge in enumerate(self.charges):
            window_left_us = self.result.statuses[index].reset_after_us
            units = refundable_units(charge.quota, left * charge.quota.cost, age_us, window_left_us)
            if units:
                refunds.append(charge.adjustment(-units, self.result.store_acquired_at_us(index)))
        return refunds


class Waiter:
    """A check that waits for units.

    Args:
        plan: Plan of the check.
        cost: Cost of the request.
    """

    __slots__ = ("cost", "plan", "prefetch", "reply")

    def __init__(self, plan: Plan, cost: int) -> None:
        self.plan = plan
        self.cost = cost
        self.reply: asyncio.Future[AcquireResult] = asyncio.get_running_loop().create_future()
        self.prefetch: Prefetch | None = None


def fitting(waiting: Sequence[Waiter], room: int) -> int:
    """Return the cost of the oldest waiters that fit together, at least that of the first.

    Args:
        waiting: The checks that wait, the oldest one first.
        room: Cost that there are units for.
    """
    total = waiting[0].cost
    for waiter in waiting[1:]:
        # None overtakes a larger cost.
        if total + waiter.cost > room:
            break
        total += waiter.cost
    return total


class PrefetchedBucket:
    """Prefetch state of the buckets of one policy and key: prefetches and waiting checks.

    Args:
        keys: Keys of the buckets in the store.
        quotas: Quotas of the buckets.
        terms: Terms of prefetching.

    Attributes:
        retired: Whether the prefetcher has dropped this state; unused units are refunded.
    """

    __slots__ = (
        "_last_statuses",
        "_mono_acquired_at_us",
        "_mono_expires_at_us",
        "_mono_last_status_at_us",
        "_mono_scarce_until_us",
        "_next_size",
        "_spent",
        "_store_remaining",
        "keys",
        "prefetches",
        "quotas",
        "refilling",
        "retired",
        "terms",
        "waiters",
    )

    def __init__(
        self, keys: frozenset[str], quotas: tuple[Quota, ...], terms: PrefetchTerms
    ) -> None:
        self.keys = keys
        self.quotas = quotas
        self.terms = terms
        self.prefetches: list[Prefetch] = []
        self.waiters: deque[Waiter] = deque()
        self.refilling = False
        self.retired = False
        self._last_statuses: tuple[BucketStatus, ...] = ()
        self._mono_last_status_at_us = 0
        self._mono_acquired_at_us = 0
        self._mono_expires_at_us = 0
        self._next_size = 1
        # Cost that was spent since the last prefetch was acquired.
        self._spent = 0
        self._store_remaining = 0
        self._mono_scarce_until_us = 0

    def spend(self, cost: int, mono_now_us: int) -> AcquireResult | None:
        """Spend a cost from the oldest prefetch that has enough units; None if none has."""
        prefetch = self._prefetch_for(cost, mono_now_us)
        if prefetch is None:
            return None
        return self._spend_from(prefetch, cost, mono_now_us, Source.PREFETCH)

    def holds(self, cost: int, mono_now_us: int) -> bool:
        """Return whether a check of this cost would be admitted without a call of the store."""
        return not self.waiters and self._prefetch_for(cost, mono_now_us) is not None

    def _prefetch_for(self, cost: int, mono_now_us: int) -> Prefetch | None:
        for prefetch in self.prefetches:
            if prefetch.left >= cost and mono_now_us < prefetch.mono_expires_at_us:
                return prefetch
        return None

    def _spend_from(
        self, prefetch: Prefetch, cost: int, mono_now_us: int, source: Source
    ) -> AcquireResult:
        prefetch.left -= cost
        self._spent += cost
        if not prefetch.left:
            self.prefetches.remove(prefetch)
            self._next_size = min(self.terms.max_cost, 2 * max(self._next_size, prefetch.cost))
        result = prefetch.result
        return AcquireResult(
            result.store_now_us,
            self._statuses(mono_now_us),
            result.spent,
            result.store_acquired_at_us_by_charge,
            prefetched=True,
            source=source,
        )

    def _statuses(self, mono_now_us: int) -> tuple[BucketStatus, ...]:
        """Return the last statuses, with the units that are left here and the time passed."""
        age_us = mono_now_us - self._mono_last_status_at_us
        left = self._left(mono_now_us)
        return tuple(
            [
                BucketStatus(
                    allowed=True,
                    remaining=min(quota.burst, status.remaining + left * quota.cost),
                    retry_after_us=0,
                    next_unit_after_us=max(1, status.next_unit_after_us - age_us),
                    reset_after_us=max(1, status.reset_after_us - age_us),
                )
                for quota, status in zip(self.quotas, self._last_statuses, strict=True)
            ]
        )

    def _left(self, mono_now_us: int) -> int:
        """Return the cost of requests that the prefetches have units left for."""
        return sum([each.left for each in self.prefetches if mono_now_us < each.mono_expires_at_us])

    def oldest_waiter(self) -> Waiter | None:
        """Return the waiter that has waited longest, and drop cancelled ones before it."""
        while self.waiters and self.waiters[0].reply.done():
            self.waiters.popleft()
        return self.waiters[0] if self.waiters else None

    def prefetch_size(self, waiting: Sequence[Waiter], mono_now_us: int) -> int:
        """Return the size of the next prefetch: at least the cost of the oldest waiter.

        Args:
            waiting: The checks that wait, the oldest one first.
            mono_now_us: Monotonic microseconds.
        """
        is_scarce = mono_now_us < self._mono_scarce_until_us or (
            # Units that lie unused here would soon be missing elsewhere.
            self.terms.on_demand and self._store_remaining < _PLENTY * self.terms.max_cost
        )
        if is_scarce:
            return fitting(waiting, self._store_remaining)
        size = self._next_size
        if self.terms.on_demand:
            age_us = max(1, mono_now_us - self._mono_acquired_at_us)
            size = min(size, -(-self._spent * self.terms.lifetime_us // (2 * age_us)))
        # No bucket admits more than its burst in one charge, however many checks wait.
        demand = fitting(waiting, min([each.burst // each.cost for each in self.quotas]))
        spare = max(0, min(size, self.terms.max_cost - self._left(mono_now_us)) - demand)
        # A remainder would be of no use to checks of the same cost.
        return demand + spare - spare % waiting[0].cost

    def lifetime_us(self, size: int, waiting: Sequence[Waiter], mono_now_us: int) -> int:
        """Return how long the next prefetch may be spent; 0 for the checks that wait for it only.

        A token bucket gains no units in that time, so it is twice the time in which the units are
        spent at the rate since the last prefetch.

        Args:
            size: Size of the prefetch.
            waiting: The checks that wait for it.
            mono_now_us: Monotonic microseconds.
        """
        if all(each.algorithm is Algorithm.FIXED_WINDOW for each in self.quotas):
            return self.terms.lifetime_us
        if fitting(waiting, size) == size:
            return 0
        age_us = mono_now_us - self._mono_acquired_at_us
        expected_us = 2 * size * age_us // max(1, self._spent)
        return min(self.terms.lifetime_us, max(MIN_LIFETIME_US, expected_us))

    def add(self, prefetch: Prefetch) -> None:
        """Add a prefetch, and remember its statuses."""
        self.prefetches.append(prefetch)
        self._spent = 0
        self._mono_acquired_at_us = prefetch.mono_sent_at_us
        self._mono_expires_at_us = prefetch.mono_expires_at_us
        self._remember(prefetch.result, prefetch.mono_sent_at_us)

    def _remember(self, result: AcquireResult, mono_sent_at_us: int) -> None:
        """Remember what the store has left, by its last reply."""
        self._last_statuses = result.statuses
        self._mono_last_status_at_us = mono_sent_at_us
        self._store_remaining = self._remaining_cost(result)

    def _remaining_cost(self, result: AcquireResult) -> int:
        """Return the cost of requests that the store has units left for."""
        pairs = zip(self.quotas, result.statuses, strict=True)
        return min([status.remaining // quota.cost for quota, status in pairs])

    def serve_waiters(self, mono_now_us: int) -> bool:
        """Serve waiters in order from the prefetches, and return whether one was served."""
        served = False
        while (waiter := self.oldest_waiter()) is not None:
            prefetch = self._prefetch_for(waiter.cost, mono_now_us)
            if prefetch is None:
                break
            self.fulfil(waiter, prefetch, mono_now_us)
            served = True
        return served

    def fulfil(self, waiter: Waiter, prefetch: Prefetch, mono_now_us: int) -> None:
        """Serve a waiter from a prefetch that has enough units."""
        waiter.prefetch = prefetch
        result = self._spend_from(prefetch, waiter.cost, mono_now_us, Source.STORE)
        waiter.reply.set_result(result)

    def return_units(self, waiter: Waiter) -> None:
        """Return the units of a waiter that was cancelled to their prefetch."""
        if waiter.prefetch is not None:
            waiter.prefetch.left += waiter.cost
            if waiter.prefetch not in self.prefetches:
                self.prefetches.append(waiter.prefetch)

    def on_denied(self, result: AcquireResult, mono_sent_at_us: int) -> int:
        """Record that a prefetch was denied, and return the cost that the store has units left for.

        Args:
            result: The store's reply.
            mono_sent_at_us: Monotonic microseconds when the request was sent.
        """
        self._next_size = 1
        self._remember(result, mono_sent_at_us)
        longest_us = max(status.retry_after_us for status in result.statuses)
        self._mono_scarce_until_us = mono_sent_at_us + longest_us
        return self._store_remaining

    def deny_like_first(self, result: AcquireResult, mono_sent_at_us: int) -> None:
        """Deny the oldest waiter, and all waiters with the same charges.

        Arguments are those of `on_denied`.
        """
        self._remember(result, mono_sent_at_us)
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

    def retire(self) -> list[Prefetch]:
        """Remove all prefetches and return them; none of them is spent any more."""
        self.retired = True
        retired, self.prefetches = self.prefetches, []
        return retired

    def pop_expired(self, mono_now_us: int) -> list[Prefetch]:
        """Remove expired prefetches and return them."""
        expired = [each for each in self.prefetches if mono_now_us >= each.mono_expires_at_us]
        for prefetch in expired:
            self.prefetches.remove(prefetch)
            self._next_size = max(1, prefetch.cost - prefetch.left)
        return expired

    def is_idle(self, mono_now_us: int) -> bool:
        """Return whether the state holds nothing that the next check needs."""
        mono_until_us = max(self._mono_scarce_until_us, self._mono_expires_at_us)
        return not self.prefetches and not self.waiters and mono_now_us >= mono_until_us
