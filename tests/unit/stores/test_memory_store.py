"""Buckets in this process: no more of them, and of their expiries, than are in use."""

import time

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.stores.memory import MemoryStore, wall_clock_us
from support.clock import ManualClock
from support.stores import MINUTE_US, adjustment, charge, quota_of

WINDOW = quota_of(Algorithm.FIXED_WINDOW, 5)


async def test_expired_buckets_are_forgotten() -> None:
    """Buckets whose time has come are gone at the next call, and no trace of them is kept."""
    clock = ManualClock()
    store = MemoryStore(clock)
    for number in range(1_000):
        await store.acquire([charge(WINDOW, key=f"caller{number}")])
    assert len(store) == 1_000
    clock.advance_us(MINUTE_US)
    await store.acquire([charge(WINDOW, key="last")])
    assert (len(store), len(store._expiries)) == (1, 1)


async def test_bucket_in_use_outlives_its_first_expiry() -> None:
    """A bucket that was spent from again is kept for as long as its state says something."""
    clock = ManualClock()
    store = MemoryStore(clock)
    log = quota_of(Algorithm.SLIDING_LOG, 5)
    await store.acquire([charge(log)])
    clock.advance_us(MINUTE_US - SECOND_US)
    await store.acquire([charge(log)])
    clock.advance_us(SECOND_US)
    taken = await store.acquire([charge(log)], commit=False)
    assert taken.statuses[0].remaining == 4
    assert (len(store), len(store._expiries)) == (1, 1)
    clock.advance_us(MINUTE_US)
    await store.adjust([])
    assert (len(store), len(store._expiries)) == (0, 0)


async def test_bucket_that_comes_and_goes_is_due_once() -> None:
    """Spending and giving back, or forgetting, over and over leaves one expiry, not thousands."""
    clock = ManualClock()
    store = MemoryStore(clock)
    spent = charge(quota_of(Algorithm.CONCURRENCY, 5))
    for _ in range(1_000):
        taken = await store.acquire([spent])
        await store.adjust([adjustment(spent, -1, taken.store_now_us)])
        await store.acquire([charge(WINDOW, key="forgotten")])
        await store.delete(["forgotten"])
    assert (len(store), len(store._expiries)) == (0, 2)
    clock.advance_us(MINUTE_US)
    await store.acquire([spent])
    assert (len(store), len(store._expiries)) == (1, 1)


async def test_closing_forgets_everything() -> None:
    """A closed store holds nothing; it was never shared and needs no opening."""
    store = MemoryStore()
    await store.open()
    await store.acquire([charge(WINDOW)])
    await store.aclose()
    assert (len(store), len(store._expiries)) == (0, 0)
    await store.acquire([charge(WINDOW)])
    assert (len(store), len(store._expiries)) == (1, 1)
    assert (store.shared, store.location) == (False, "memory://")


def test_wall_clock_is_the_process_s_own() -> None:
    """Without a clock of its own a store runs on the time of day, in whole microseconds."""
    before = time.time_ns() // 1_000
    assert before <= wall_clock_us() <= time.time_ns() // 1_000
