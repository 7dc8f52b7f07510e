"""Results of each algorithm, equal to the microsecond in every store."""

import pytest

from fleetlimit.core.quota import MAX_LIMIT, SECOND_US, Algorithm, Quota, rate_quota
from fleetlimit.limiter.ports import Store
from support.clock import ManualClock
from support.stores import (
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


async def test_token_bucket_counts_down_and_refills_one_by_one(
    store: Store, clock: ManualClock
) -> None:
    """A bucket of 3 at 5 a minute gives 3 at once and then one every 12 seconds."""
    quota = rate_quota("5/minute", burst=3)
    step = 12 * SECOND_US
    assert await spend(store, quota) == allowed_status(2, step, step)
    assert await spend(store, quota) == allowed_status(1, step, 2 * step)
    assert await spend(store, quota) == allowed_status(0, step, 3 * step)
    assert await spend(store, quota) == denied_status(0, step, step, 3 * step)
    clock.advance_us(step)
    assert await spend(store, quota) == allowed_status(0, step, 3 * step)
    clock.advance_us(3 * step)
    assert await peek(store, quota) == allowed_status(3, 0, 0)


async def test_token_bucket_never_rounds(store: Store, clock: ManualClock) -> None:
    """At 7 a minute the waits round up while the times of the units add up exactly."""
    quota = rate_quota("7/minute", burst=1)
    for _ in range(7):
        assert (await spend(store, quota)).allowed
        status = await spend(store, quota)
        assert status.retry_after_us in {8_571_428, 8_571_429}
        clock.advance_us(status.retry_after_us)
    started = clock.monotonic_us() - MINUTE_US
    # Seven waits for a unit are a minute; each wait may be rounded up by a microsecond.
    assert 0 <= clock.monotonic_us() - started - MINUTE_US < 7


async def test_fixed_window_resets_at_the_boundary(store: Store, clock: ManualClock) -> None:
    """A window of 2 that began 30 seconds ago denies a third unit for the remaining 30 seconds."""
    quota = quota_of(Algorithm.FIXED_WINDOW, 2)
    half = 30 * SECOND_US
    clock.advance_us(half)
    assert await peek(store, quota) == allowed_status(2, 0, 0)
    assert await spend(store, quota) == allowed_status(1, half, half)
    assert await spend(store, quota) == allowed_status(0, half, half)
    assert await spend(store, quota) == denied_status(0, half, half, half)
    clock.advance_us(half - 1)
    assert await spend(store, quota) == denied_status(0, 1, 1, 1)
    clock.advance_us(1)
    assert await spend(store, quota) == allowed_status(1, MINUTE_US, MINUTE_US)


async def test_sliding_window_weighs_the_previous_window(store: Store, clock: ManualClock) -> None:
    """Of 4 units in the previous window, one expires with each quarter of the current one."""
    quota = quota_of(Algorithm.SLIDING_WINDOW, 4)
    quarter = MINUTE_US // 4
    assert await spend(store, quota, 4) == allowed_status(0, 5 * quarter, 8 * quarter)
    assert await spend(store, quota) == denied_status(0, 5 * quarter, 5 * quarter, 8 * quarter)
    clock.advance_us(MINUTE_US)
    assert await spend(store, quota) == denied_status(0, quarter, quarter, 4 * quarter)
    assert await spend(store, quota, 2) == denied_status(0, 2 * quarter, quarter, 4 * quarter)
    clock.advance_us(quarter - 1)
    assert (await spend(store, quota)).retry_after_us == 1
    clock.advance_us(1)
    assert await peek(store, quota, 1) == allowed_status(1, quarter, 3 * quarter)
    assert (await spend(store, quota)).remaining == 0
    clock.advance_us(2 * MINUTE_US)
    assert await peek(store, quota) == allowed_status(4, 0, 0)


async def test_sliding_log_expires_each_entry_after_a_period(
    store: Store, clock: ManualClock
) -> None:
    """Units return exactly one period after they were spent, each at its own time."""
    quota = quota_of(Algorithm.SLIDING_LOG, 3)
    assert await spend(store, quota) == allowed_status(2, MINUTE_US, MINUTE_US)
    clock.advance_us(10 * SECOND_US)
    assert await spend(store, quota, 2) == allowed_status(0, 50 * SECOND_US, MINUTE_US)
    denied = await spend(store, quota)
    assert denied == denied_status(0, 50 * SECOND_US, 50 * SECOND_US, MINUTE_US)
    assert (await spend(store, quota, 2)).retry_after_us == MINUTE_US
    clock.advance_us(50 * SECOND_US - 1)
    assert (await spend(store, quota)).retry_after_us == 1
    clock.advance_us(1)
    assert await spend(store, quota) == allowed_status(0, 10 * SECOND_US, MINUTE_US)


async def test_concurrency_counts_units_in_use(store: Store, clock: ManualClock) -> None:
    """A unit is free again when its lease was released or expired."""
    quota = quota_of(Algorithm.CONCURRENCY, 2, period_us=30 * SECOND_US)
    first = charge(quota, lease="first")
    result = await store.acquire([first])
    assert result.statuses == (allowed_status(1, 30 * SECOND_US, 30 * SECOND_US),)
    clock.advance_us(10 * SECOND_US)
    second = await spend(store, quota, lease="second")
    assert second == allowed_status(0, 20 * SECOND_US, 30 * SECOND_US)
    third = await spend(store, quota, lease="third")
    assert third == denied_status(0, 20 * SECOND_US, 20 * SECOND_US, 30 * SECOND_US)
    assert (await peek(store, quota, 2)).retry_after_us == 30 * SECOND_US
    await store.adjust([adjustment(first, -1, result.store_now_us)])
    assert (await spend(store, quota, lease="third")).allowed
    clock.advance_us(30 * SECOND_US)
    assert await peek(store, quota) == allowed_status(2, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_retry_after_is_exact(store: Store, clock: ManualClock, algorithm: Algorithm) -> None:
    """After `retry_after_us` a denied client is admitted; one microsecond earlier it is not."""
    quota = quota_of(algorithm, 7)
    clock.advance_us(1_234_567)
    for unit in range(7):
        assert (await spend(store, quota, lease=f"lease{unit}")).allowed
        clock.advance_us(7_001)
    denied = await spend(store, quota, 3, lease="waiting")
    assert not denied.allowed
    clock.advance_us(denied.retry_after_us - 1)
    early = await spend(store, quota, 3, lease="waiting")
    assert (early.allowed, early.retry_after_us) == (False, 1)
    clock.advance_us(1)
    assert (await spend(store, quota, 3, lease="waiting")).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_next_unit_and_reset_times_are_exact(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """One more unit is available at `next_unit_after_us`, and all at `reset_after_us`."""
    quota = quota_of(algorithm, 5)
    clock.advance_us(17 * SECOND_US)
    for unit in range(4):
        await spend(store, quota, lease=f"lease{unit}")
        clock.advance_us(3 * SECOND_US)
    before = await peek(store, quota)
    assert 1 <= before.remaining < 5
    clock.advance_us(before.next_unit_after_us - 1)
    assert (await peek(store, quota)).remaining == before.remaining
    clock.advance_us(1)
    after = await peek(store, quota)
    assert after.remaining > before.remaining
    assert after.reset_after_us == before.reset_after_us - before.next_unit_after_us
    clock.advance_us(after.reset_after_us)
    assert await peek(store, quota) == allowed_status(5, 0, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_burst_or_limit_is_admitted_at_one_instant(
    store: Store, algorithm: Algorithm
) -> None:
    """At one instant exactly the burst is admitted, or the limit for algorithms without a burst."""
    burst = 9 if algorithm is Algorithm.TOKEN_BUCKET else 6
    quota = quota_of(algorithm, 6, burst=burst)
    admitted = [(await spend(store, quota, lease=f"lease{turn}")).allowed for turn in range(12)]
    assert admitted == [True] * burst + [False] * (12 - burst)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_cost_is_spent_completely_or_not_at_all(store: Store, algorithm: Algorithm) -> None:
    """A cost above the remaining units is denied and spends nothing; a smaller one still fits."""
    quota = quota_of(algorithm, 5)
    assert (await spend(store, quota, 3, lease="a")).remaining == 2
    denied = await spend(store, quota, 3, lease="b")
    assert (denied.allowed, denied.remaining) == (False, 2)
    assert (await spend(store, quota, 2, lease="c")).remaining == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_cost_of_0_is_always_allowed(store: Store, algorithm: Algorithm) -> None:
    """A cost of 0 fits an empty bucket and a full one, and changes neither."""
    quota = quota_of(algorithm, 2)
    assert await spend(store, quota, 0) == allowed_status(2, 0, 0)
    spent = await spend(store, quota, 2)
    assert await spend(store, quota, 0) == spent


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_largest_quota_is_exact(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """The largest limits lose no unit and no microsecond to rounding."""
    quota = _largest(algorithm)
    units = min(quota.burst, 10_000) if algorithm is Algorithm.CONCURRENCY else quota.burst
    clock.advance_us(999_999)
    assert (await spend(store, quota, units - 1)).remaining == 1
    denied = await spend(store, quota, 2, lease="other")
    assert not denied.allowed
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await peek(store, quota, 2)).allowed
    clock.advance_us(1)
    assert (await peek(store, quota, 2)).allowed


def _largest(algorithm: Algorithm) -> Quota:
    day_us = 86_400 * SECOND_US
    if algorithm in {Algorithm.SLIDING_LOG, Algorithm.CONCURRENCY}:
        return quota_of(algorithm, 10_000, period_us=366 * day_us)
    return quota_of(algorithm, MAX_LIMIT, period_us=366 * day_us)


@pytest.mark.parametrize("rate", ["150000000/minute", f"{2**45 - 1}/second", "1099511627776/day"])
@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window", "sliding_window"])
async def test_large_rate_is_exact_to_the_unit(
    store: Store, clock: ManualClock, rate: str, algorithm: str
) -> None:
    """Tokens of large models, and bytes: the last unit is admitted, and not one more."""
    quota = rate_quota(rate, algorithm=Algorithm(algorithm))
    clock.advance_us(999_999)
    spent = charge(quota, quota.limit - 3)
    result = await store.acquire([spent])
    assert result.statuses[0].remaining == 3
    assert not (await spend(store, quota, 4)).allowed
    assert (await spend(store, quota, 3)).remaining == 0
    await store.adjust([adjustment(spent, -12_345, result.store_now_us)])
    denied = await spend(store, quota, 12_346)
    assert (denied.allowed, denied.remaining) == (False, 12_345)
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await peek(store, quota, 12_346)).allowed
    clock.advance_us(1)
    assert (await spend(store, quota, 12_346)).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_changed_limit_counts_units_spent_before(store: Store, algorithm: Algorithm) -> None:
    """A new limit on the same bucket applies at once; units spent under the old one count."""
    small, large = quota_of(algorithm, 4), quota_of(algorithm, 8)
    await spend(store, small, 4, lease="a")
    assert not (await spend(store, small, lease="b")).allowed
    raised = await peek(store, large)
    # A token bucket stores the time at which it is full; other algorithms store a count.
    assert raised.remaining == (0 if algorithm is Algorithm.TOKEN_BUCKET else 4)
    assert (await spend(store, large, raised.remaining, lease="c")).allowed
    assert not (await spend(store, large, lease="d")).allowed
    lowered = await spend(store, small, lease="e")
    assert (lowered.allowed, lowered.remaining) == (False, 0)
    assert 0 < lowered.next_unit_after_us <= lowered.reset_after_us


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_lowered_limit_waits_for_the_excess(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """Also under a lowered limit, a client is admitted after `retry_after_us`, and not before."""
    large, small = quota_of(algorithm, 8), quota_of(algorithm, 3)
    for unit in range(8):
        assert (await spend(store, large, lease=f"lease{unit}")).allowed
        clock.advance_us(SECOND_US)
    denied = await peek(store, small, 1)
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await peek(store, small, 1)).allowed
    clock.advance_us(1)
    assert (await spend(store, small, lease="new")).allowed


async def test_lowered_burst_reports_the_exact_wait(store: Store, clock: ManualClock) -> None:
    """A bucket with a debt of many times its new burst reports a wait after which it admits."""
    await spend(store, rate_quota("1/second", burst=100), 100)
    denied = await peek(store, rate_quota("1/second", burst=1), 1)
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await peek(store, rate_quota("1/second", burst=1), 1)).allowed
    clock.advance_us(1)
    assert (await peek(store, rate_quota("1/second", burst=1), 1)).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_clock_that_goes_back_refills_nothing(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """A store clock that goes back, as in a failover, refills nothing; the wait is exact."""
    quota = quota_of(algorithm, 3)
    await spend(store, quota, 3, lease="a")
    clock.advance_us(-90 * SECOND_US)
    denied = await spend(store, quota, lease="b")
    assert not denied.allowed
    clock.advance_us(denied.retry_after_us)
    assert (await spend(store, quota, lease="b")).allowed


@pytest.mark.parametrize(
    "algorithm", [Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW, Algorithm.SLIDING_LOG]
)
async def test_clock_that_goes_back_stays_in_the_latest_window(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """Units spent after the clock went back count with the units spent before."""
    quota = quota_of(algorithm, 3)
    await spend(store, quota, 2)
    clock.advance_us(-SECOND_US)
    assert (await spend(store, quota)).allowed
    clock.advance_us(SECOND_US)
    assert not (await spend(store, quota)).allowed


async def test_lowered_burst_bounds_the_wait(store: Store, clock: ManualClock) -> None:
    """A debt of 100 units counts as two bursts of 10, so 11 units must refill, and not 91."""
    await spend(store, rate_quota("10/hour", burst=100), 100)
    lowered = rate_quota("10/hour", burst=10)
    denied = await spend(store, lowered)
    assert (denied.allowed, denied.retry_after_us) == (False, 11 * 6 * MINUTE_US)
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await spend(store, lowered)).allowed
    clock.advance_us(1)
    assert (await spend(store, lowered)).allowed


@pytest.mark.parametrize("algorithm", [each for each in ALGORITHMS if each != "concurrency"])
async def test_clock_that_goes_back_far_bounds_the_wait(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """After a step back of an hour, a bucket of a minute admits within two minutes and a unit."""
    quota = quota_of(algorithm, 10)
    await spend(store, quota, 10)
    clock.advance_us(-60 * MINUTE_US)
    denied = await spend(store, quota)
    assert not denied.allowed
    assert denied.retry_after_us <= 2 * MINUTE_US + 6 * SECOND_US
    clock.advance_us(denied.retry_after_us - 1)
    assert not (await spend(store, quota)).allowed
    clock.advance_us(1)
    assert (await spend(store, quota)).allowed
