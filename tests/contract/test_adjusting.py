"""Adjustments of spent charges: refund, additional cost, lease renewal and deletion."""

from collections.abc import Sequence

import pytest

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.ports import AdjustFailed, Store
from fleetlimit.stores.redis.store import RedisStore
from support.clock import ManualClock
from support.stores import (
    BUCKET,
    MINUTE_US,
    adjustment,
    allowed_status,
    charge,
    denied_status,
    peek,
    quota_of,
    spend,
)

ALGORITHMS = list(Algorithm)
WINDOWS = [Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_refunded_units_can_be_spent_again(store: Store, algorithm: Algorithm) -> None:
    """A partial refund leaves the other units spent; a full refund leaves a full bucket."""
    spent = charge(quota_of(algorithm, 5), 4)
    result = await store.acquire([spent])
    await store.adjust([adjustment(spent, -3, result.store_now_us)])
    assert (await peek(store, spent.quota)).remaining == 4
    rest = Charge(spent.key, spent.quota, 1, spent.lease)
    await store.adjust([adjustment(rest, -1, result.store_now_us)])
    assert await peek(store, spent.quota) == allowed_status(5, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_refund_never_exceeds_a_full_bucket(store: Store, algorithm: Algorithm) -> None:
    """Refunding more than was spent, twice, or to an empty bucket creates no units."""
    spent = charge(quota_of(algorithm, 3), 2)
    result = await store.acquire([spent])
    for _ in range(3):
        await store.adjust([adjustment(spent, -2, result.store_now_us)])
        assert await peek(store, spent.quota) == allowed_status(3, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_additional_cost_may_exceed_the_limit(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """A positive adjustment spends even beyond the limit, and the bucket reports the exact wait."""
    spent = charge(quota_of(algorithm, 4), 3)
    result = await store.acquire([spent])
    await store.adjust([adjustment(spent, 3, result.store_now_us)])
    denied = await peek(store, spent.quota, 1)
    assert (denied.allowed, denied.remaining) == (False, 0)
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await peek(store, spent.quota, 1)).allowed
    clock.advance_us(1)
    assert (await spend(store, spent.quota, lease="next")).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_positive_adjustment_recreates_an_expired_bucket(
    store: Store, algorithm: Algorithm
) -> None:
    """A positive adjustment counts even if the bucket has expired."""
    spent = charge(quota_of(algorithm, 4), 1)
    await store.adjust([adjustment(spent, 2, 0)])
    kept = 1 if algorithm is Algorithm.CONCURRENCY else 2
    assert (await peek(store, spent.quota)).remaining == kept


async def test_token_bucket_debt_is_at_most_two_bursts(store: Store) -> None:
    """However much is adjusted, the bucket is full again after the time of two bursts."""
    spent = charge(quota_of(Algorithm.TOKEN_BUCKET, 4), 1)
    await store.adjust([adjustment(spent, 1_000_000, 0)])
    assert (await peek(store, spent.quota)).reset_after_us == 2 * MINUTE_US


@pytest.mark.parametrize("algorithm", [each for each in ALGORITHMS if each != "concurrency"])
@pytest.mark.parametrize("delta", [10**15, 2**63, 10**400], ids=["15", "63 bits", "400"])
async def test_enormous_additional_cost_is_bounded(
    store: Store, clock: ManualClock, algorithm: Algorithm, delta: int
) -> None:
    """Whatever is spent without a check, the bucket admits again after at most two limits."""
    spent = charge(quota_of(algorithm, 4), 1)
    result = await store.acquire([spent])
    await store.adjust([adjustment(spent, delta, result.store_now_us)])
    denied = await peek(store, spent.quota, 1)
    assert (denied.allowed, denied.remaining) == (False, 0)
    assert denied.retry_after_us <= 2 * MINUTE_US
    clock.advance_us(denied.retry_after_us)
    assert (await spend(store, spent.quota)).allowed


async def test_refund_returns_what_has_not_refilled(store: Store, clock: ManualClock) -> None:
    """Of 3 units spent 15 seconds ago at 4 a minute, one has refilled and two are refunded."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 4)
    old = charge(quota, 3)
    result = await store.acquire([old])
    clock.advance_us(15 * SECOND_US)
    await spend(store, quota, 2)
    assert (await peek(store, quota)).remaining == 0
    await store.adjust([adjustment(old, -3, result.store_now_us)])
    assert (await peek(store, quota)).remaining == 2


async def test_late_refund_returns_nothing(store: Store, clock: ManualClock) -> None:
    """Units that have all refilled do not come back a second time."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 4)
    old = charge(quota, 4)
    result = await store.acquire([old])
    clock.advance_us(MINUTE_US)
    await spend(store, quota, 4)
    await store.adjust([adjustment(old, -4, result.store_now_us)])
    assert not (await spend(store, quota)).allowed


@pytest.mark.parametrize("algorithm", [each for each in ALGORITHMS if each != "concurrency"])
async def test_refund_of_one_of_two_checks_at_the_same_time(
    store: Store, algorithm: Algorithm
) -> None:
    """Of 1 and 10 units spent at one instant, as in one script call, a refund of 10 leaves 1."""
    quota = quota_of(algorithm, 20)
    small, large = charge(quota, 1), charge(quota, 10)
    await store.acquire([small])
    result = await store.acquire([large])
    await store.adjust([adjustment(large, -10, result.store_now_us)])
    assert (await peek(store, quota)).remaining == 19


@pytest.mark.parametrize("algorithm", WINDOWS)
async def test_refund_does_not_cross_windows(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """Units spent two windows ago are not refunded to the current window."""
    spent = charge(quota_of(algorithm, 3), 2)
    result = await store.acquire([spent])
    clock.advance_us(2 * MINUTE_US)
    await spend(store, spent.quota, 2)
    await store.adjust([adjustment(spent, -2, result.store_now_us)])
    assert (await peek(store, spent.quota)).remaining == 1


@pytest.mark.parametrize("algorithm", WINDOWS)
async def test_refund_does_not_cross_windows_of_a_bucket_in_use(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """A bucket that was used in each window is as old as the charge, and still refunds nothing."""
    spent = charge(quota_of(algorithm, 3), 1)
    result = await store.acquire([spent])
    for _ in range(2):
        clock.advance_us(MINUTE_US)
        await spend(store, spent.quota, 1)
    before = await peek(store, spent.quota)
    await store.adjust([adjustment(spent, -1, result.store_now_us)])
    assert await peek(store, spent.quota) == before


async def test_refund_to_the_previous_window_counts_in_a_sliding_window(
    store: Store, clock: ManualClock
) -> None:
    """Units refunded to the previous window no longer weigh on the current one."""
    spent = charge(quota_of(Algorithm.SLIDING_WINDOW, 4), 4)
    result = await store.acquire([spent])
    clock.advance_us(MINUTE_US)
    assert not (await spend(store, spent.quota)).allowed
    await store.adjust([adjustment(spent, -3, result.store_now_us)])
    assert (await peek(store, spent.quota)).remaining == 3


async def test_refund_of_a_log_changes_its_own_entry(store: Store, clock: ManualClock) -> None:
    """A refund reduces the entry with its time; other entries expire at their own time."""
    spent = charge(quota_of(Algorithm.SLIDING_LOG, 3), 1)
    await store.acquire([spent])
    clock.advance_us(10 * SECOND_US)
    second = await store.acquire([spent])
    clock.advance_us(10 * SECOND_US)
    await store.acquire([spent])
    await store.adjust([adjustment(spent, -1, second.store_now_us)])
    assert await peek(store, spent.quota) == allowed_status(1, 40 * SECOND_US, MINUTE_US)
    await store.adjust([adjustment(spent, -1, second.store_now_us)])
    assert (await peek(store, spent.quota)).remaining == 1


async def test_renew_extends_a_lease(store: Store, clock: ManualClock) -> None:
    """A renewed lease lasts for another period; one that expired while in use is restored."""
    held = charge(quota_of(Algorithm.CONCURRENCY, 2, period_us=30 * SECOND_US), 2)
    await store.acquire([held])
    for _ in range(3):
        clock.advance_us(20 * SECOND_US)
        await store.renew([held])
        assert (await peek(store, held.quota, 1)).retry_after_us == 30 * SECOND_US
    clock.advance_us(30 * SECOND_US)
    assert (await peek(store, held.quota, 1)).allowed
    await store.renew([held])
    assert not (await peek(store, held.quota, 1)).allowed


async def test_restored_lease_may_exceed_the_limit(store: Store, clock: ManualClock) -> None:
    """After an expired lease is restored, both count, and a unit is free only below the limit."""
    quota = quota_of(Algorithm.CONCURRENCY, 1, period_us=30 * SECOND_US)
    old = charge(quota, lease="old")
    await store.acquire([old])
    clock.advance_us(30 * SECOND_US)
    assert (await spend(store, quota, lease="new")).allowed
    clock.advance_us(SECOND_US)
    await store.renew([old])
    wait = 30 * SECOND_US
    assert await spend(store, quota, lease="third") == denied_status(0, wait, wait, wait)


async def test_release_affects_only_its_own_lease(store: Store) -> None:
    """Releasing one lease does not change other leases."""
    quota = quota_of(Algorithm.CONCURRENCY, 5)
    first, second = charge(quota, 2, lease="first"), charge(quota, 2, lease="second")
    result = await store.acquire([first])
    await store.acquire([second])
    await store.adjust([adjustment(first, -2, result.store_now_us)])
    assert (await peek(store, quota)).remaining == 3


async def test_several_adjustments_in_one_call(store: Store) -> None:
    """Adjustments of several buckets, in several slots, all take effect."""
    charges = [
        charge(quota_of(algorithm, 5), 2, key=f"{{caller{place}}}")
        for place, algorithm in enumerate(ALGORITHMS)
    ]
    result = await store.acquire(charges)
    await store.adjust([adjustment(each, -2, result.store_now_us) for each in charges])
    peeked = await store.acquire(charges, dry_run=True)
    assert [each.remaining for each in peeked.statuses] == [5] * 5


async def test_empty_adjustment_does_nothing(store: Store) -> None:
    """Adjusting or renewing nothing does nothing."""
    await store.adjust([])
    await store.renew([])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_deleted_bucket_is_full(store: Store, algorithm: Algorithm) -> None:
    """`delete` removes buckets in every slot, and counts the buckets that existed."""
    quota = quota_of(algorithm, 2)
    await spend(store, quota, 2)
    await store.acquire([charge(quota, key="{other}")])
    assert await store.delete([BUCKET, "{other}", "{never}"]) == 2
    assert await peek(store, quota) == allowed_status(2, 0, 0)
    assert await store.delete([BUCKET]) == 0


async def test_many_adjustments_are_several_short_calls(shared_store: RedisStore) -> None:
    """A script of thousands of buckets would occupy the server for the timeout of other checks."""
    quota = quota_of(Algorithm.FIXED_WINDOW, 4)
    spent = [charge(quota, 2, key=f"bucket-{number}") for number in range(130)]
    results = [await shared_store.acquire([each]) for each in spent]

    async def scripts_run() -> int:
        stats = await shared_store.client.info("commandstats")
        return int(stats["cmdstat_evalsha"]["calls"])

    before = await scripts_run()
    refunds = [
        adjustment(each, -1, result.store_now_us)
        for each, result in zip(spent, results, strict=True)
    ]
    assert len(await shared_store.adjust(refunds)) == 130
    assert await scripts_run() - before == 3
    left = [(await shared_store.acquire([each], dry_run=True)).statuses[0] for each in spent]
    assert [each.remaining for each in left] == [3] * 130


async def test_adjustments_that_fail_leave_those_before_them(
    shared_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the buckets that were not adjusted, and the times of the others."""
    quota = quota_of(Algorithm.FIXED_WINDOW, 4)
    spent = [charge(quota, 2, key=f"bucket-{number}") for number in range(130)]
    now_us = (await shared_store.acquire(spent[:1])).store_now_us
    adjust, calls = shared_store._call_adjust, 0

    async def fail_second(
        adjustments: Sequence[Adjustment],
    ) -> tuple[int, dict[str, StoreError]]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailable("gone", kind="connection")
        return await adjust(adjustments)

    monkeypatch.setattr(shared_store, "_call_adjust", fail_second)
    with pytest.raises(AdjustFailed) as caught:
        await shared_store.adjust([adjustment(each, -1, now_us) for each in spent])
    keys = [each.key for each in spent]
    assert list(caught.value.store_adjusted_at_us_by_key) == keys[:64]
    assert set(caught.value.errors) == set(keys[64:])
    assert calls == 2
