"""All limits of one check are decided together: all or nothing, whatever their algorithms."""

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
    """Return what remains in each bucket."""
    idle = [Charge(each.key, each.quota, 0, each.lease) for each in charges]
    return [
        verdict.remaining for each in idle for verdict in (await store.acquire([each])).statuses
    ]


async def test_all_limits_are_spent_when_all_fit(store: Store, keys: list[str]) -> None:
    """A check that fits every limit spends in each of them, and each tells its own figures."""
    charges = mixed(keys, [9, 8, 7, 6, 5], units=2)
    taken = await store.acquire(charges)
    assert taken.spent
    assert [verdict.remaining for verdict in taken.statuses] == [7, 6, 5, 4, 3]
    assert await left(store, charges) == [7, 6, 5, 4, 3]


@pytest.mark.parametrize("full", range(5))
async def test_denied_request_burns_no_other_quota(
    store: Store, keys: list[str], full: int
) -> None:
    """A check that one limit refuses spends nothing in any (envoyproxy/ratelimit #427, #440)."""
    limits = [5] * 5
    limits[full] = 1
    await store.acquire(mixed(keys, limits))
    denied = mixed(keys, limits, lease="b")
    for _ in range(3):
        taken = await store.acquire(denied)
        assert not taken.spent
        assert allowed(taken) == [place != full for place in range(5)]
        # What would have fitted tells how its bucket stands, not how it would have stood.
        assert [each.remaining for each in taken.statuses] == [each - 1 for each in limits]
    assert await left(store, denied) == [each - 1 for each in limits]


async def test_two_refusals_each_tell_their_own_wait(
    store: Store, keys: list[str], clock: ManualClock
) -> None:
    """Every limit that refuses says how long; the longest of them is enough for all."""
    log = quota_of(Algorithm.SLIDING_LOG, 1, period_us=MINUTE_US)
    window = quota_of(Algorithm.FIXED_WINDOW, 1, period_us=60 * MINUTE_US)
    charges = [charge(log, key=keys[0]), charge(window, key=keys[1])]
    assert (await store.acquire(charges)).spent
    denied = await store.acquire(charges)
    waits = [verdict.retry_after_us for verdict in denied.statuses]
    assert waits == [MINUTE_US, 60 * MINUTE_US]
    clock.advance_us(max(waits) - 1)
    assert allowed(await store.acquire(charges)) == [True, False]
    clock.advance_us(1)
    assert (await store.acquire(charges)).spent


async def test_look_spends_nothing(store: Store, keys: list[str]) -> None:
    """Without commit every verdict is told and no bucket changes."""
    charges = mixed(keys, [3] * 5)
    for _ in range(5):
        taken = await store.acquire(charges, commit=False)
        assert not taken.spent
        assert [(each.allowed, each.remaining) for each in taken.statuses] == [(True, 3)] * 5
    assert await left(store, charges) == [3] * 5


async def test_shadow_never_refuses(store: Store, keys: list[str]) -> None:
    """A group in shadow that does not fit is not spent, and refuses nobody."""
    small, large = quota_of(Algorithm.FIXED_WINDOW, 1), quota_of(Algorithm.TOKEN_BUCKET, 3)
    charges = [charge(large, key=keys[0]), charge(small, key=keys[1], group=1)]
    assert allowed(await store.acquire(charges)) == [True, True]
    for remaining in (1, 0):
        taken = await store.acquire(charges)
        assert (taken.spent, allowed(taken)) == (True, [True, False])
        assert [each.remaining for each in taken.statuses] == [remaining, 0]


async def test_shadow_spends_nothing_for_a_refused_request(store: Store, keys: list[str]) -> None:
    """What group 0 refuses is spent in no shadow group either."""
    small, large = quota_of(Algorithm.FIXED_WINDOW, 1), quota_of(Algorithm.TOKEN_BUCKET, 3)
    charges = [charge(small, key=keys[0]), charge(large, key=keys[1], group=1)]
    assert (await store.acquire(charges)).spent
    taken = await store.acquire(charges)
    assert (taken.spent, allowed(taken)) == (False, [False, True])
    assert taken.statuses[1].remaining == 2
    assert await left(store, charges) == [0, 2]


async def test_shadow_group_is_spent_whole_or_not(store: Store, keys: list[str]) -> None:
    """Two limits of one shadow group are spent together; another group is not held by them."""
    quotas = [quota_of(Algorithm.FIXED_WINDOW, limit) for limit in (1, 5, 5)]
    charges = [
        charge(quota, key=key, group=group)
        for quota, key, group in zip(quotas, keys, (1, 1, 2), strict=False)
    ]
    await store.acquire(charges)
    taken = await store.acquire(charges)
    assert (taken.spent, allowed(taken)) == (True, [False, True, True])
    assert await left(store, charges) == [0, 4, 3]


async def test_shadow_alone_that_does_not_fit_is_an_answer(store: Store, keys: list[str]) -> None:
    """A check that only shadow policies hold is let in when none of them fits."""
    small = quota_of(Algorithm.FIXED_WINDOW, 1)
    charges = [charge(small, key=key, group=group) for group, key in enumerate(keys, start=1)]
    await store.acquire(charges)
    taken = await store.acquire(charges)
    assert (taken.spent, allowed(taken)) == (True, [False] * 5)


async def test_store_tells_its_time(store: Store, keys: list[str], clock: ManualClock) -> None:
    """An answer carries the store's own time, at which it decided."""
    taken = await store.acquire(mixed(keys, [3] * 5))
    assert taken.store_now_us == clock.now_us
