"""MemoryStore: buckets and expiry entries do not outlive their use."""

import time

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.stores.memory import MemoryStore, wall_clock_us
from support.clock import ManualClock
from support.stores import MINUTE_US, adjustment, charge, quota_of

WINDOW = quota_of(Algorithm.FIXED_WINDOW, 5)


async def test_expired_buckets_are_deleted() -> None:
    """Expired buckets and their expiry entries are deleted in the next call."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    for number in range(1_000):
        await store.acquire([charge(WINDOW, key=f"caller{number}")])
    assert len(store) == 1_000
    clock.advance_us(MINUTE_US)
    await store.acquire([charge(WINDOW, key="last")])
    assert (len(store), len(store._expiries)) == (1, 1)


async def test_bucket_in_use_outlives_its_first_expiry() -> None:
    """A bucket that was charged again is kept for as long as its state matters."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    log = quota_of(Algorithm.SLIDING_LOG, 5)
    await store.acquire([charge(log)])
    clock.advance_us(MINUTE_US - SECOND_US)
    await store.acquire([charge(log)])
    clock.advance_us(SECOND_US)
    result = await store.acquire([charge(log)], dry_run=True)
    assert result.statuses[0].remaining == 4
    assert (len(store), len(store._expiries)) == (1, 1)
    clock.advance_us(MINUTE_US)
    await store.adjust([])
    assert (len(store), len(store._expiries)) == (0, 0)


async def test_recreated_bucket_has_one_expiry_entry() -> None:
    """Repeated charges, refunds and deletions leave one expiry entry."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    spent = charge(quota_of(Algorithm.CONCURRENCY, 5))
    for _ in range(1_000):
        result = await store.acquire([spent])
        await store.adjust([adjustment(spent, -1, result.store_now_us)])
        await store.acquire([charge(WINDOW, key="forgotten")])
        await store.delete(["forgotten"])
    assert (len(store), len(store._expiries)) == (0, 2)
    clock.advance_us(MINUTE_US)
    await store.acquire([spent])
    assert (len(store), len(store._expiries)) == (1, 1)


async def test_aclose_deletes_all_buckets() -> None:
    """A closed store is empty; it is not shared and needs no opening."""
    store = MemoryStore()
    await store.open()
    await store.acquire([charge(WINDOW)])
    await store.aclose()
    assert (len(store), len(store._expiries)) == (0, 0)
    await store.acquire([charge(WINDOW)])
    assert (len(store), len(store._expiries)) == (1, 1)
    assert (store.shared, store.location) == (False, "memory://")


def test_wall_clock_is_the_time_of_day() -> None:
    """Without a clock argument, a store uses the time of day in whole microseconds."""
    before = time.time_ns() // 1_000
    assert before <= wall_clock_us() <= time.time_ns() // 1_000
