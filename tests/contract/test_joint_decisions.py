"""All limits of a check are decided together, all or nothing, for every algorithm."""

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import Algorithm
from fleetlimit.limiter.ports import Store
from support.clock import ManualClock
from support.stores import MINUTE_US, allowed, charge, quota_of

ALGORITHMS = list(Algorithm)
ONE_SLOT = [f"{{caller}}:{place}" for place in range(5)]
MANY_SLOTS = [f"{{caller{place}}}" for place in range(5)]

pytestmark = pytest.mark.parametrize("keys", [ONE_SLOT, MANY_SLOTS], ids=["one", "many"])


def mixed(keys: list[str], limits: list[int], *, lease: str = "a", units: int = 1) -> list[Charge]:
    """Return one charge of each algorithm."""
    return [
        charge(quota_of(algorithm, limit), units, key=key, lease=lease)
        for algorithm, key, limit in zip(ALGORITHMS, keys, limits, strict=True)
    ]


async def left(store: Store, charges: list[Charge]) -> list[int]:
    """Return the remaining units of each bucket."""
    idle = [Charge(each.key, each.quota, 0, each.lease) for each in charges]
    return [status.remaining for each in idle for status in (await store.acquire([each])).statuses]


async def test_all_limits_are_spent_when_all_fit(store: Store, keys: list[str]) -> None:
    """A check that fits every limit spends in each of them, and each reports its own numbers."""
    charges = mixed(keys, [9, 8, 7, 6, 5], units=2)
    result = await store.acquire(charges)
    assert result.spent
    assert [status.remaining for status in result.statuses] == [7, 6, 5, 4, 3]
    assert await left(store, charges) == [7, 6, 5, 4, 3]


@pytest.mark.parametrize("full", range(5))
async def test_denied_check_spends_nothing_in_any_limit(
    store: Store, keys: list[str], full: int
) -> None:
    """A check that one limit denies spends nothing in any (envoyproxy/ratelimit #427, #440)."""
    limits = [5] * 5
    limits[full] = 1
    await store.acquire(mixed(keys, limits))
    denied = mixed(keys, limits, lease="b")
    for _ in range(3):
        result = await store.acquire(denied)
        assert not result.spent
        assert allowed(result) == [place != full for place in range(5)]
        # An allowed charge that was not spent reports the unchanged bucket.
        assert [each.remaining for each in result.statuses] == [each - 1 for each in limits]
    assert await left(store, denied) == [each - 1 for each in limits]


async def test_each_denying_limit_reports_its_wait(
    store: Store, keys: list[str], clock: ManualClock
) -> None:
    """Every limit that denies reports its wait; the longest one is enough for all."""
    log = quota_of(Algorithm.SLIDING_LOG, 1, period_us=MINUTE_US)
    window = quota_of(Algorithm.FIXED_WINDOW, 1, period_us=60 * MINUTE_US)
    charges = [charge(log, key=keys[0]), charge(window, key=keys[1])]
    assert (await store.acquire(charges)).spent
    denied = await store.acquire(charges)
    waits = [status.retry_after_us for status in denied.statuses]
    assert waits == [MINUTE_US, 60 * MINUTE_US]
    clock.advance_us(max(waits) - 1)
    assert allowed(await store.acquire(charges)) == [True, False]
    clock.advance_us(1)
    assert (await store.acquire(charges)).spent


async def test_dry_run_spends_nothing(store: Store, keys: list[str]) -> None:
    """A dry run reports every status and changes no bucket."""
    charges = mixed(keys, [3] * 5)
    for _ in range(5):
        result = await store.acquire(charges, dry_run=True)
        assert not result.spent
        assert [(each.allowed, each.remaining) for each in result.statuses] == [(True, 3)] * 5
    assert await left(store, charges) == [3] * 5


async def test_shadow_group_never_denies(store: Store, keys: list[str]) -> None:
    """A shadow group that does not fit is not spent, and does not deny the check."""
    small, large = quota_of(Algorithm.FIXED_WINDOW, 1), quota_of(Algorithm.TOKEN_BUCKET, 3)
    charges = [charge(large, key=keys[0]), charge(small, key=keys[1], group=1)]
    assert allowed(await store.acquire(charges)) == [True, True]
    for remaining in (1, 0):
        result = await store.acquire(charges)
        assert (result.spent, allowed(result)) == (True, [True, False])
        assert [each.remaining for each in result.statuses] == [remaining, 0]


async def test_denied_check_spends_no_shadow_group(store: Store, keys: list[str]) -> None:
    """If group 0 is denied, shadow groups are not spent either."""
    small, large = quota_of(Algorithm.FIXED_WINDOW, 1), quota_of(Algorithm.TOKEN_BUCKET, 3)
    charges = [charge(small, key=keys[0]), charge(large, key=keys[1], group=1)]
    assert (await store.acquire(charges)).spent
    result = await store.acquire(charges)
    assert (result.spent, allowed(result)) == (False, [False, True])
    assert result.statuses[1].remaining == 2
    assert await left(store, charges) == [0, 2]


async def test_shadow_group_is_spent_completely_or_not_at_all(
    store: Store, keys: list[str]
) -> None:
    """Two limits of a shadow group are spent together, and independently of other groups."""
    quotas = [quota_of(Algorithm.FIXED_WINDOW, limit) for limit in (1, 5, 5)]
    charges = [
        charge(quota, key=key, group=group)
        for quota, key, group in zip(quotas, keys, (1, 1, 2), strict=False)
    ]
    await store.acquire(charges)
    result = await store.acquire(charges)
    assert (result.spent, allowed(result)) == (True, [False, True, True])
    assert await left(store, charges) == [0, 4, 3]


async def test_check_of_shadow_policies_alone_is_allowed(store: Store, keys: list[str]) -> None:
    """A check with shadow policies only is admitted even if none of them fits."""
    small = quota_of(Algorithm.FIXED_WINDOW, 1)
    charges = [charge(small, key=key, group=group) for group, key in enumerate(keys, start=1)]
    await store.acquire(charges)
    result = await store.acquire(charges)
    assert (result.spent, allowed(result)) == (True, [False] * 5)


async def test_result_has_the_store_time(store: Store, keys: list[str], clock: ManualClock) -> None:
    """A result has the store's time of the decision."""
    result = await store.acquire(mixed(keys, [3] * 5))
    assert result.store_now_us == clock.monotonic_us()
