"""What was spent can be set right afterwards: given back, topped up, renewed or forgotten."""

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.ports import Store
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
async def test_what_is_given_back_can_be_spent_again(store: Store, algorithm: Algorithm) -> None:
    """A refund of a part leaves the rest spent; of the whole, the bucket is as if untouched."""
    spent = charge(quota_of(algorithm, 5), 4)
    taken = await store.acquire([spent])
    await store.adjust([adjustment(spent, -3, taken.store_now_us)])
    assert (await peek(store, spent.quota)).remaining == 4
    rest = Charge(spent.key, spent.quota, 1, spent.lease)
    await store.adjust([adjustment(rest, -1, taken.store_now_us)])
    assert await peek(store, spent.quota) == allowed_status(5, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_refund_never_makes_a_bucket_more_than_full(
    store: Store, algorithm: Algorithm
) -> None:
    """Giving back more than was spent, or twice, or to an empty bucket, creates nothing."""
    spent = charge(quota_of(algorithm, 3), 2)
    taken = await store.acquire([spent])
    for _ in range(3):
        await store.adjust([adjustment(spent, -2, taken.store_now_us)])
        assert await peek(store, spent.quota) == allowed_status(3, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_cost_known_later_is_spent_without_asking(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """A correction upwards spends even beyond the limit, and the bucket tells the true wait."""
    spent = charge(quota_of(algorithm, 4), 3)
    taken = await store.acquire([spent])
    await store.adjust([adjustment(spent, 3, taken.store_now_us)])
    denied = await peek(store, spent.quota, 1)
    assert (denied.allowed, denied.remaining) == (False, 0)
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await peek(store, spent.quota, 1)).allowed
    clock.advance_us(1)
    assert (await spend(store, spent.quota, lease="next")).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_spending_without_asking_opens_a_bucket(store: Store, algorithm: Algorithm) -> None:
    """A correction upwards counts where the bucket has expired in between."""
    spent = charge(quota_of(algorithm, 4), 1)
    await store.adjust([adjustment(spent, 2, 0)])
    kept = 1 if algorithm is Algorithm.CONCURRENCY else 2
    assert (await peek(store, spent.quota)).remaining == kept


async def test_token_bucket_owes_two_bursts_at_most(store: Store) -> None:
    """However much is spent without asking, the bucket is usable after two of its bursts."""
    spent = charge(quota_of(Algorithm.TOKEN_BUCKET, 4), 1)
    await store.adjust([adjustment(spent, 1_000_000, 0)])
    assert (await peek(store, spent.quota)).reset_after_us == 2 * MINUTE_US


@pytest.mark.parametrize("algorithm", WINDOWS)
async def test_refund_of_a_window_gone_by_gives_nothing_to_this_one(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """Units spent two windows ago are not given back to a window that never had them."""
    spent = charge(quota_of(algorithm, 3), 2)
    taken = await store.acquire([spent])
    clock.advance_us(2 * MINUTE_US)
    await spend(store, spent.quota, 2)
    await store.adjust([adjustment(spent, -2, taken.store_now_us)])
    assert (await peek(store, spent.quota)).remaining == 1


async def test_refund_to_the_last_window_counts_in_the_sliding_one(
    store: Store, clock: ManualClock
) -> None:
    """Units given back to the last window no longer weigh on this one."""
    spent = charge(quota_of(Algorithm.SLIDING_WINDOW, 4), 4)
    taken = await store.acquire([spent])
    clock.advance_us(MINUTE_US)
    assert not (await spend(store, spent.quota)).allowed
    await store.adjust([adjustment(spent, -3, taken.store_now_us)])
    assert (await peek(store, spent.quota)).remaining == 3


async def test_refund_of_a_log_is_of_its_own_entry(store: Store, clock: ManualClock) -> None:
    """What is given back is taken from the entry of its time; the others end when they end."""
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


async def test_renewed_lease_lives_on(store: Store, clock: ManualClock) -> None:
    """A delta of 0 renews a lease, and brings one back that had lapsed while it was in use."""
    held = charge(quota_of(Algorithm.CONCURRENCY, 2, period_us=30 * SECOND_US), 2)
    taken = await store.acquire([held])
    for _ in range(3):
        clock.advance_us(20 * SECOND_US)
        await store.adjust([adjustment(held, 0, taken.store_now_us)])
        assert (await peek(store, held.quota, 1)).retry_after_us == 30 * SECOND_US
    clock.advance_us(30 * SECOND_US)
    assert (await peek(store, held.quota, 1)).allowed
    await store.adjust([adjustment(held, 0, taken.store_now_us)])
    assert not (await peek(store, held.quota, 1)).allowed


async def test_lapsed_lease_in_use_may_hold_more_than_the_limit(
    store: Store, clock: ManualClock
) -> None:
    """When a lapsed lease comes back, both are counted, and a unit is free only below the limit."""
    quota = quota_of(Algorithm.CONCURRENCY, 1, period_us=30 * SECOND_US)
    old = charge(quota, lease="old")
    taken = await store.acquire([old])
    clock.advance_us(30 * SECOND_US)
    assert (await spend(store, quota, lease="new")).allowed
    clock.advance_us(SECOND_US)
    await store.adjust([adjustment(old, 0, taken.store_now_us)])
    wait = 30 * SECOND_US
    assert await spend(store, quota, lease="third") == denied_status(0, wait, wait, wait)


async def test_release_is_of_its_own_lease(store: Store) -> None:
    """Giving one lease back leaves the others held."""
    quota = quota_of(Algorithm.CONCURRENCY, 5)
    first, second = charge(quota, 2, lease="first"), charge(quota, 2, lease="second")
    taken = await store.acquire([first])
    await store.acquire([second])
    await store.adjust([adjustment(first, -2, taken.store_now_us)])
    assert (await peek(store, quota)).remaining == 3


async def test_several_corrections_in_one_call(store: Store) -> None:
    """Corrections of several buckets, in several slots, all take effect."""
    charges = [
        charge(quota_of(algorithm, 5), 2, key=f"{{caller{place}}}")
        for place, algorithm in enumerate(ALGORITHMS)
    ]
    taken = await store.acquire(charges)
    await store.adjust([adjustment(each, -2, taken.store_now_us) for each in charges])
    looked = await store.acquire(charges, commit=False)
    assert [each.remaining for each in looked.statuses] == [5] * 5


async def test_no_corrections_are_no_call(store: Store) -> None:
    """Settling nothing does nothing."""
    await store.adjust([])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_forgotten_bucket_is_fresh(store: Store, algorithm: Algorithm) -> None:
    """Forgetting deletes buckets wherever they live, and counts those that were there."""
    quota = quota_of(algorithm, 2)
    await spend(store, quota, 2)
    await store.acquire([charge(quota, key="{other}")])
    assert await store.delete([BUCKET, "{other}", "{never}"]) == 2
    assert await peek(store, quota) == allowed_status(2, 0, 0)
    assert await store.delete([BUCKET]) == 0
