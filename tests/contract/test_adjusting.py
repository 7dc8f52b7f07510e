"""What was spent can be set right afterwards: given back, topped up, renewed or forgotten."""

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.ports import Store
from support.clock import MovedClock
from support.stores import (
    BUCKET,
    MINUTE_US,
    admits,
    charge,
    look,
    quota_of,
    refuses,
    settlement,
    spend,
)

ALGORITHMS = list(Algorithm)
WINDOWS = [Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_what_is_given_back_can_be_spent_again(store: Store, algorithm: Algorithm) -> None:
    """A refund of a part leaves the rest spent; of the whole, the bucket is as if untouched."""
    spent = charge(quota_of(algorithm, 5), 4)
    taken = await store.take([spent])
    await store.settle([settlement(spent, -3, taken.now_us)])
    assert (await look(store, spent.quota)).remaining == 4
    rest = Charge(spent.key, spent.quota, 1, spent.lease)
    await store.settle([settlement(rest, -1, taken.now_us)])
    assert await look(store, spent.quota) == admits(5, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_refund_never_makes_a_bucket_more_than_full(
    store: Store, algorithm: Algorithm
) -> None:
    """Giving back more than was spent, or twice, or to an empty bucket, creates nothing."""
    spent = charge(quota_of(algorithm, 3), 2)
    taken = await store.take([spent])
    for _ in range(3):
        await store.settle([settlement(spent, -2, taken.now_us)])
        assert await look(store, spent.quota) == admits(3, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_cost_known_later_is_spent_without_asking(
    store: Store, clock: MovedClock, algorithm: Algorithm
) -> None:
    """A correction upwards spends even beyond the limit, and the bucket tells the true wait."""
    spent = charge(quota_of(algorithm, 4), 3)
    taken = await store.take([spent])
    await store.settle([settlement(spent, 3, taken.now_us)])
    denied = await look(store, spent.quota, 1)
    assert (denied.fits, denied.remaining) == (False, 0)
    clock.advance(denied.retry_us - 1)
    assert not (await look(store, spent.quota, 1)).fits
    clock.advance(1)
    assert (await spend(store, spent.quota, lease="next")).fits


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_spending_without_asking_opens_a_bucket(store: Store, algorithm: Algorithm) -> None:
    """A correction upwards counts where the bucket has expired in between."""
    spent = charge(quota_of(algorithm, 4), 1)
    await store.settle([settlement(spent, 2, 0)])
    kept = 1 if algorithm is Algorithm.CONCURRENCY else 2
    assert (await look(store, spent.quota)).remaining == kept


async def test_token_bucket_owes_two_bursts_at_most(store: Store) -> None:
    """However much is spent without asking, the bucket is usable after two of its bursts."""
    spent = charge(quota_of(Algorithm.TOKEN_BUCKET, 4), 1)
    await store.settle([settlement(spent, 1_000_000, 0)])
    assert (await look(store, spent.quota)).reset_us == 2 * MINUTE_US


@pytest.mark.parametrize("algorithm", WINDOWS)
async def test_refund_of_a_window_gone_by_gives_nothing_to_this_one(
    store: Store, clock: MovedClock, algorithm: Algorithm
) -> None:
    """Units spent two windows ago are not given back to a window that never had them."""
    spent = charge(quota_of(algorithm, 3), 2)
    taken = await store.take([spent])
    clock.advance(2 * MINUTE_US)
    await spend(store, spent.quota, 2)
    await store.settle([settlement(spent, -2, taken.now_us)])
    assert (await look(store, spent.quota)).remaining == 1


async def test_refund_to_the_last_window_counts_in_the_sliding_one(
    store: Store, clock: MovedClock
) -> None:
    """Units given back to the last window no longer weigh on this one."""
    spent = charge(quota_of(Algorithm.SLIDING_WINDOW, 4), 4)
    taken = await store.take([spent])
    clock.advance(MINUTE_US)
    assert not (await spend(store, spent.quota)).fits
    await store.settle([settlement(spent, -3, taken.now_us)])
    assert (await look(store, spent.quota)).remaining == 3


async def test_refund_of_a_log_is_of_its_own_entry(store: Store, clock: MovedClock) -> None:
    """What is given back is taken from the entry of its time; the others end when they end."""
    spent = charge(quota_of(Algorithm.SLIDING_LOG, 3), 1)
    await store.take([spent])
    clock.advance(10 * SECOND_US)
    second = await store.take([spent])
    clock.advance(10 * SECOND_US)
    await store.take([spent])
    await store.settle([settlement(spent, -1, second.now_us)])
    assert await look(store, spent.quota) == admits(1, 40 * SECOND_US, MINUTE_US)
    await store.settle([settlement(spent, -1, second.now_us)])
    assert (await look(store, spent.quota)).remaining == 1


async def test_renewed_lease_lives_on(store: Store, clock: MovedClock) -> None:
    """A delta of 0 renews a lease, and brings one back that had lapsed while it was in use."""
    held = charge(quota_of(Algorithm.CONCURRENCY, 2, period_us=30 * SECOND_US), 2)
    taken = await store.take([held])
    for _ in range(3):
        clock.advance(20 * SECOND_US)
        await store.settle([settlement(held, 0, taken.now_us)])
        assert (await look(store, held.quota, 1)).retry_us == 30 * SECOND_US
    clock.advance(30 * SECOND_US)
    assert (await look(store, held.quota, 1)).fits
    await store.settle([settlement(held, 0, taken.now_us)])
    assert not (await look(store, held.quota, 1)).fits


async def test_lapsed_lease_in_use_may_hold_more_than_the_limit(
    store: Store, clock: MovedClock
) -> None:
    """When a lapsed lease comes back, both are counted, and a unit is free only below the limit."""
    quota = quota_of(Algorithm.CONCURRENCY, 1, period_us=30 * SECOND_US)
    old = charge(quota, lease="old")
    taken = await store.take([old])
    clock.advance(30 * SECOND_US)
    assert (await spend(store, quota, lease="new")).fits
    clock.advance(SECOND_US)
    await store.settle([settlement(old, 0, taken.now_us)])
    wait = 30 * SECOND_US
    assert await spend(store, quota, lease="third") == refuses(0, wait, wait, wait)


async def test_release_is_of_its_own_lease(store: Store) -> None:
    """Giving one lease back leaves the others held."""
    quota = quota_of(Algorithm.CONCURRENCY, 5)
    first, second = charge(quota, 2, lease="first"), charge(quota, 2, lease="second")
    taken = await store.take([first])
    await store.take([second])
    await store.settle([settlement(first, -2, taken.now_us)])
    assert (await look(store, quota)).remaining == 3


async def test_several_corrections_in_one_call(store: Store) -> None:
    """Corrections of several buckets, in several slots, all take effect."""
    charges = [
        charge(quota_of(algorithm, 5), 2, key=f"{{caller{place}}}")
        for place, algorithm in enumerate(ALGORITHMS)
    ]
    taken = await store.take(charges)
    await store.settle([settlement(each, -2, taken.now_us) for each in charges])
    looked = await store.take(charges, commit=False)
    assert [each.remaining for each in looked.verdicts] == [5] * 5


async def test_no_corrections_are_no_call(store: Store) -> None:
    """Settling nothing does nothing."""
    await store.settle([])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_forgotten_bucket_is_fresh(store: Store, algorithm: Algorithm) -> None:
    """Forgetting deletes buckets wherever they live, and counts those that were there."""
    quota = quota_of(algorithm, 2)
    await spend(store, quota, 2)
    await store.take([charge(quota, key="{other}")])
    assert await store.forget([BUCKET, "{other}", "{never}"]) == 2
    assert await look(store, quota) == admits(2, 0, 0)
    assert await store.forget([BUCKET]) == 0
