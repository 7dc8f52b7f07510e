"""Kept units stay within the bound, whenever reservations are refunded and state is lost."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US, Algorithm, Quota
from fleetlimit.limiter.ports import Store
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.admitted import (
    Admitted,
    assert_concurrency,
    assert_fixed_window,
    assert_sliding_log,
    assert_sliding_window,
    assert_token_bucket,
)
from support.batching import Batching, open_empty_store, use_batching
from support.calendars import calendar_quotas
from support.clock import EPOCH_US, ManualClock
from support.stores import adjustment, charge, peek, quota_of, spend

_names = count()
RATES = [each for each in Algorithm if each is not Algorithm.CONCURRENCY]
BOUNDS = {
    Algorithm.TOKEN_BUCKET: assert_token_bucket,
    Algorithm.FIXED_WINDOW: assert_fixed_window,
    Algorithm.SLIDING_WINDOW: assert_sliding_window,
    Algorithm.SLIDING_LOG: assert_sliding_log,
    Algorithm.CONCURRENCY: assert_concurrency,
}


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_refund_after_a_reset_returns_nothing(store: Store, algorithm: Algorithm) -> None:
    """A reset returns all units: a refund of a charge from before it would return some twice."""
    old = charge(quota_of(algorithm, 5), 5, lease="old")
    result = await store.acquire([old])
    await store.delete([old.key])
    assert (await spend(store, old.quota, 5, lease="new")).allowed
    await store.adjust([adjustment(old, -5, result.store_now_us)])
    assert (await peek(store, old.quota)).remaining == 0


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_charge_after_a_reset_is_refunded(store: Store, algorithm: Algorithm) -> None:
    """Of the charges around a reset, only the later one is refunded."""
    quota = quota_of(algorithm, 5)
    await spend(store, quota, 3, lease="old")
    await store.delete([charge(quota).key])
    await store.delete([charge(quota).key])
    new = charge(quota, 4, lease="new")
    result = await store.acquire([new])
    await store.adjust([adjustment(new, -4, result.store_now_us)])
    assert (await peek(store, quota)).remaining == 5


@pytest.mark.parametrize("algorithm", RATES)
@pytest.mark.parametrize("limit", [5, 7], ids=["whole", "fractions"])
async def test_refund_after_a_loss_of_state_returns_nothing(
    shared_store: RedisStore, clock: ManualClock, algorithm: Algorithm, limit: int
) -> None:
    """What was spent before the server lost its state is not in the bucket any more."""
    quota = quota_of(algorithm, limit)
    old = charge(quota, limit)
    result = await shared_store.acquire([old])
    clock.advance_us(1)
    await shared_store.client.flushall()
    new = await shared_store.acquire([old])
    assert new.spent
    await shared_store.adjust([adjustment(old, -limit, result.store_now_us)])
    assert (await peek(shared_store, quota)).remaining == 0
    clock.advance_us(1)
    await shared_store.adjust([adjustment(old, -2, new.store_now_us)])
    assert (await peek(shared_store, quota)).remaining == 2


@pytest.mark.parametrize("algorithm", RATES)
async def test_refund_after_the_server_was_killed_returns_nothing(algorithm: Algorithm) -> None:
    """On the server's own clock: a charge from before a restart without persistence is lost."""
    quota = quota_of(algorithm, 5)
    old = charge(quota, 5)
    with EmbeddedValkey() as server:
        async with open_empty_store(Batching.SINGLE, server.url) as store:
            result = await store.acquire([old])
            server.stop()
            server.start()
            await store.open()
            assert (await spend(store, quota, 5)).allowed
            await store.adjust([adjustment(old, -5, result.store_now_us)])
            assert (await peek(store, quota)).remaining == 0


@dataclass(slots=True)
class Kept:
    """Units of one reservation that were not refunded."""

    charge: Charge
    at_us: int
    units: int
    corrected: bool = False


Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 12), st.just(0)),
        st.tuples(st.just("keep"), st.integers(0, 12), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(0, 12 * MILLISECOND_US), st.just(0)),
        st.tuples(st.just("reset"), st.just(0), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


@pytest.fixture(scope="module")
def lasting_clock() -> ManualClock:
    """Return the clock of both stores, which all examples move on."""
    return ManualClock()


@pytest.fixture(scope="module")
async def lua(valkey: EmbeddedValkey, lasting_clock: ManualClock) -> AsyncIterator[RedisStore]:
    """Return one open store for all examples."""
    with use_batching(Batching.COALESCED) as batching:
        now_us = lasting_clock.monotonic_us
        async with open_empty_store(batching, valkey.url, now_us=now_us) as store:
            yield store


async def run(
    lua: RedisStore, clock: ManualClock, quota: Quota, schedule: list[Step], *, factor: int = 1
) -> list[list[Kept]]:
    """Run a schedule, with pauses that are longer by a factor, in both stores; compare the results.

    Returns:
        What each reservation kept, separately for each life of the bucket: it is full after a
        reset and after a loss of state.
    """
    clock.advance_us(SECOND_US - clock.monotonic_us() % SECOND_US)
    core = MemoryStore(clock.monotonic_us)
    key = f"{{caller}}:kept:{next(_names)}"
    lives: list[list[Kept]] = [[]]
    for number, (action, amount, which) in enumerate(schedule):
        reservations = [each for life in lives for each in life if not each.corrected]
        if action == "wait":
            clock.advance_us(amount * factor)
        elif action in {"reset", "flush"}:
            clock.advance_us(1)
            if action == "reset":
                assert await lua.delete([key]) == await core.delete([key])
            else:
                await lua.client.flushall()
                await core.delete([key])
            # A server executes no two calls at one time.
            clock.advance_us(1)
            lives.append([])
        elif action == "reserve":
            spent = Charge(key, quota, min(amount, quota.burst), f"lease{number}")
            result: AcquireResult = await core.acquire([spent])
            assert await lua.acquire([spent]) == result
            if result.spent:
                lives[-1].append(Kept(spent, result.store_now_us, spent.units))
        elif reservations:
            chosen = reservations[which % len(reservations)]
            chosen.corrected, chosen.units = True, min(amount, chosen.units)
            delta = chosen.units - chosen.charge.units
            if delta:
                correction = adjustment(chosen.charge, delta, chosen.at_us)
                assert await lua.adjust([correction]) == await core.adjust([correction])
    return lives


@pytest.mark.parametrize("algorithm", list(Algorithm))
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    figures=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    schedule=STEPS,
)
async def test_kept_units_stay_within_the_bound(
    lua: RedisStore,
    lasting_clock: ManualClock,
    algorithm: Algorithm,
    figures: tuple[int, int],
    schedule: list[Step],
) -> None:
    """From one loss of state to the next, what is kept is within the algorithm's bound."""
    limit, burst = figures
    burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
    quota = Quota(algorithm, limit, 10 * MILLISECOND_US, burst)
    keeps: Callable[[Quota, Admitted], None] = BOUNDS[algorithm]
    for life in await run(lua, lasting_clock, quota, schedule):
        keeps(quota, [(each.at_us, each.units) for each in life])


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(quota=calendar_quotas(st.integers(1, 12)), schedule=STEPS)
async def test_kept_units_stay_within_windows_of_a_calendar(
    lua: RedisStore, lasting_clock: ManualClock, quota: Quota, schedule: list[Step]
) -> None:
    """Refunds return units to the window that they were spent in, and to no other one."""
    lasting_clock.advance_us(EPOCH_US - lasting_clock.monotonic_us())
    factor = quota.period_us // (10 * MILLISECOND_US)
    for life in await run(lua, lasting_clock, quota, schedule, factor=factor):
        assert_fixed_window(quota, [(each.at_us, each.units) for each in life])
