"""MemoryStore: buckets and expiry entries do not outlive their use."""

import time

import pytest

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.stores.memory import MemoryStore, wall_clock_us
from support.clock import ManualClock
from support.stores import MINUTE_US, adjustment, charge, quota_of

WINDOW = quota_of(Algorithm.FIXED_WINDOW, 5)


async def test_expired_buckets_are_deleted_a_few_in_each_call() -> None:
    """Windows that end together do not make one check slow; all are deleted soon."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    for number in range(1_000):
        await store.acquire([charge(WINDOW, key=f"caller{number}")])
    assert len(store) == 1_000
    clock.advance_us(MINUTE_US)
    await store.acquire([charge(WINDOW, key="last")])
    assert 900 < len(store) < 1_000
    for _ in range(100):
        await store.acquire([charge(WINDOW, key="last")])
    assert (len(store), len(store._expiries)) == (1, 1)


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_expired_bucket_is_full_before_it_is_deleted(algorithm: Algorithm) -> None:
    """A bucket whose deletion is delayed behaves as a deleted one."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    for number in range(100):
        await store.acquire([charge(quota_of(algorithm, 5), 5, key=f"caller{number}")])
    clock.advance_us(10 * MINUTE_US)
    late = charge(quota_of(algorithm, 5), 2, key="caller99")
    result = await store.acquire([late], dry_run=True)
    assert len(store) > 1
    assert result == await MemoryStore(clock.monotonic_us).acquire([late], dry_run=True)
    spent = await store.acquire([late])
    assert spent == await MemoryStore(clock.monotonic_us).acquire([late])


@pytest.mark.parametrize("is_used_again", [False, True])
async def test_memory_store_is_bounded(
    caplog: pytest.LogCaptureFixture,
    is_used_again: bool,  # noqa: FBT001 - a case
) -> None:
    """A full store drops buckets that expire first, and warns once a minute."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us, max_buckets=50)
    log = quota_of(Algorithm.SLIDING_LOG, 5)
    for _ in range(1 + is_used_again):
        for number in range(50):
            await store.acquire([charge(log, key=f"caller{number}")])
        clock.advance_us(SECOND_US)
    for number in range(50, 500):
        clock.advance_us(1_000)
        await store.acquire([charge(log, key=f"caller{number}")])
        assert len(store) <= 51
        assert len(store._expiries) <= 51
    newest = await store.acquire([charge(log, key="caller499")], dry_run=True)
    assert newest.statuses[0].remaining == 4
    assert len(caplog.messages) == 1
    assert "set FLEETLIMIT_MEMORY_BUCKETS above 50" in caplog.text
    clock.advance_us(SECOND_US)
    await store.acquire([charge(log, key="one more")])
    assert len(caplog.messages) == 1


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
    assert (len(store), len(store._expiries)) == (0, 1)
    clock.advance_us(MINUTE_US)
    await store.acquire([spent])
    assert (len(store), len(store._expiries)) == (1, 1)


async def test_deleted_buckets_leave_few_expiry_entries() -> None:
    """Callers that hold nothing any more take no memory until a long lease would have expired."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    kept = charge(WINDOW, key="kept")
    await store.acquire([kept])
    for number in range(5_000):
        spent = charge(quota_of(Algorithm.CONCURRENCY, 5), key=f"caller{number}")
        result = await store.acquire([spent])
        await store.adjust([adjustment(spent, -1, result.store_now_us)])
        await store.acquire([charge(WINDOW, key=f"forgotten{number}")])
        await store.delete([f"forgotten{number}"])
    assert (len(store), len(store._expiries)) == (1, 2)
    assert (await store.acquire([kept])).statuses[0].remaining == 3
    clock.advance_us(MINUTE_US)
    for _ in range(100):
        await store.adjust([])
    assert (len(store), len(store._expiries)) == (0, 0)


async def test_leases_of_one_bucket_are_renewed_together() -> None:
    """Each lease is held for its own period from now on, as if it was renewed alone."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    limit = quota_of(Algorithm.CONCURRENCY, 200)
    shorter = quota_of(Algorithm.CONCURRENCY, 200, period_us=MINUTE_US // 2)
    leases = [
        charge(quota, 2, lease=f"lease{number}{name}")
        for number in range(40)
        for name, quota in (("a", limit), ("b", shorter))
    ]
    for each in leases:
        assert (await store.acquire([each])).spent
    clock.advance_us(MINUTE_US // 4)
    await store.renew(leases)
    clock.advance_us(MINUTE_US // 2 - 1)
    status = (await store.acquire([charge(limit, 0)], dry_run=True)).statuses[0]
    assert status.remaining == 200 - 160
    clock.advance_us(1)
    status = (await store.acquire([charge(limit, 0)], dry_run=True)).statuses[0]
    assert status.remaining == 200 - 80


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
