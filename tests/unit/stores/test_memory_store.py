"""Buckets in this process: no more of them, and of their expiries, than are in use."""

import time

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.stores.memory import MemoryStore, wall_clock_us
from support.clock import MovedClock
from support.stores import MINUTE_US, charge, quota_of, settlement

WINDOW = quota_of(Algorithm.FIXED_WINDOW, 5)


async def test_expired_buckets_are_forgotten() -> None:
    """Buckets whose time has come are gone at the next call, and no trace of them is kept."""
    clock = MovedClock()
    store = MemoryStore(clock)
    for number in range(1_000):
        await store.take([charge(WINDOW, key=f"caller{number}")])
    assert len(store) == 1_000
    clock.advance(MINUTE_US)
    await store.take([charge(WINDOW, key="last")])
    assert (len(store), len(store._expiries)) == (1, 1)


async def test_bucket_in_use_outlives_its_first_expiry() -> None:
    """A bucket that was spent from again is kept for as long as its state says something."""
    clock = MovedClock()
    store = MemoryStore(clock)
    log = quota_of(Algorithm.SLIDING_LOG, 5)
    await store.take([charge(log)])
    clock.advance(MINUTE_US - SECOND_US)
    await store.take([charge(log)])
    clock.advance(SECOND_US)
    taken = await store.take([charge(log)], commit=False)
    assert taken.verdicts[0].remaining == 4
    assert (len(store), len(store._expiries)) == (1, 1)
    clock.advance(MINUTE_US)
    await store.settle([])
    assert (len(store), len(store._expiries)) == (0, 0)


async def test_bucket_that_comes_and_goes_is_due_once() -> None:
    """Spending and giving back, or forgetting, over and over leaves one expiry, not thousands."""
    clock = MovedClock()
    store = MemoryStore(clock)
    spent = charge(quota_of(Algorithm.CONCURRENCY, 5))
    for _ in range(1_000):
        taken = await store.take([spent])
        await store.settle([settlement(spent, -1, taken.now_us)])
        await store.take([charge(WINDOW, key="forgotten")])
        await store.forget(["forgotten"])
    assert (len(store), len(store._expiries)) == (0, 2)
    clock.advance(MINUTE_US)
    await store.take([spent])
    assert (len(store), len(store._expiries)) == (1, 1)


async def test_closing_forgets_everything() -> None:
    """A closed store holds nothing; it was never shared and needs no opening."""
    store = MemoryStore()
    await store.open()
    await store.take([charge(WINDOW)])
    await store.aclose()
    assert (len(store), len(store._expiries)) == (0, 0)
    await store.take([charge(WINDOW)])
    assert (len(store), len(store._expiries)) == (1, 1)
    assert (store.shared, store.location) == (False, "memory://")


def test_wall_clock_is_the_process_s_own() -> None:
    """Without a clock of its own a store runs on the time of day, in whole microseconds."""
    before = time.time_ns() // 1_000
    assert before <= wall_clock_us() <= time.time_ns() // 1_000
