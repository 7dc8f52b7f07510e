"""Prefetches that are spent ahead: which ones, how long they live, and what the bucket loses."""

import asyncio

import pytest

from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US
from support.limiter import fixed_window, rate_policy
from support.prefetch import BUCKET, WINDOW, AheadBench, check_times, remaining_of, start_checks


async def test_prefetch_with_spare_units_is_charged_ahead() -> None:
    """A prefetch for later checks is spent ahead by its lifetime, and one for waiters is not."""
    async with AheadBench(BUCKET) as bench:
        await check_times(bench, 1)
        bench.clock.advance(0.3)
        await check_times(bench, 2)
        bench.clock.advance(0.4)
        await asyncio.gather(*start_checks(bench, *[1] * 3))
        bench.clock.advance(0.5)
        await asyncio.gather(*start_checks(bench, *[1] * 9))
        # The first is for its check. Then 1 unit was spent in 0.3 s, and two units take 0.6 s; of
        # the third call, 2 units were spent in 0.4 s, and four units take 0.8 s. It has one unit
        # left, so the fourth is for the other 8 checks.
        assert bench.acquired() == [(1, 0), (2, 1_200_000), (4, 1_600_000), (8, 0)]


async def test_prefetch_near_the_limit_is_not_charged_ahead() -> None:
    """After a denied prefetch only the units of waiting checks are acquired."""
    async with AheadBench(BUCKET) as bench:
        await check_times(bench, 95)
        assert bench.acquired()[4:] == [(10, 10 * MILLISECOND_US)] * 8
        await check_times(bench, 2)
        # Five units are left: a prefetch of ten is denied.
        assert bench.acquired()[12:] == [(10, 10 * MILLISECOND_US), (1, 0), (1, 0)]


async def test_fixed_window_is_never_charged_ahead() -> None:
    """The units of a window may be used until it ends, so it is not spent ahead."""
    async with AheadBench(WINDOW) as bench:
        for _ in range(4):
            await check_times(bench, 2, policy="w")
            bench.clock.advance(0.3)
        assert bench.acquired() == [(1, 0), (2, 0), (4, 0), (8, 0)]


async def test_only_the_token_bucket_of_several_limits_is_charged_ahead() -> None:
    """A prefetch from a token bucket and a window lives as long as the one of the bucket."""
    limits = (fixed_window(100), BUCKET.limits[0])
    async with AheadBench(Policy("p", limits, prefetch=0.1)) as bench:
        await check_times(bench, 1)
        bench.clock.advance(0.3)
        await check_times(bench, 1)
        assert bench.acquired() == [(1, 0), (1, 0), (2, 0), (2, 1_200_000)]
        bench.clock.advance(1.2)
        await check_times(bench, 1)
        assert bench.store.count("acquire") == 3


@pytest.mark.parametrize(
    ("pause_us", "lifetime_us"),
    [
        # Two units were spent in the pause: four take twice the pause, and live for twice that.
        (0, 10_000),
        (2_500, 10_000),
        (2_501, 10_004),
        (100_000, 400_000),
        (1_499_999, 5_999_996),
        (1_500_000, 6_000_000),
        (90_000_000, 6_000_000),
    ],
)
async def test_prefetch_lifetime_follows_the_rate(pause_us: int, lifetime_us: int) -> None:
    """It is twice the expected time of use, from 10 ms to the time that refills ten units."""
    async with AheadBench(BUCKET) as bench:
        await check_times(bench, 3)
        bench.clock.advance_us(pause_us)
        await check_times(bench, 1)
        assert bench.acquired()[-1] == (4, lifetime_us)
        bench.clock.advance_us(lifetime_us - 1)
        await check_times(bench, 1)
        before = bench.store.count("acquire")
        bench.clock.advance_us(1)
        await check_times(bench, 1)
        assert bench.store.count("acquire") == before + 1


@pytest.mark.parametrize(("limit", "lifetime_us"), [(1_000, 10_000), (2_000, 5_000)])
async def test_prefetch_lifetime_is_at_most_the_time_of_the_largest(
    limit: int, lifetime_us: int
) -> None:
    """A bucket that refills the largest prefetch in less than 10 ms limits the lifetime."""
    async with AheadBench(rate_policy("p", f"{limit}/second", prefetch=10 / limit)) as bench:
        await check_times(bench, 2)
        assert bench.acquired() == [(1, 0), (2, lifetime_us)]


async def test_fixed_window_prefetch_lifetime_does_not_follow_the_rate() -> None:
    """It is that part of the window which the largest prefetch is of the limit."""
    async with AheadBench(WINDOW) as bench:
        await check_times(bench, 2, policy="w")
        bench.clock.advance_us(6 * SECOND_US - 1)
        await check_times(bench, 1, policy="w")
        assert bench.store.count("acquire") == 2


async def test_bucket_gains_no_unit_during_the_lifetime() -> None:
    """A full bucket lacks, when the lifetime ends, what it would lack after a use at that time."""
    async with AheadBench(BUCKET) as bench:
        await check_times(bench, 1)
        bench.clock.advance(60)
        (decision,) = await check_times(bench, 1)
        assert bench.acquired()[-1] == (2, 6_000_000)
        # The two units, and ten that the bucket is spent ahead; one unit is left here.
        assert await bench.remaining("p") == 88
        assert remaining_of(decision) == 89
        bench.clock.advance(6)
        assert await bench.remaining("p") == 98


async def test_bucket_that_is_not_full_loses_nothing() -> None:
    """A bucket that is full later than the lifetime ends gains units all the time."""
    async with AheadBench(BUCKET) as bench:
        await check_times(bench, 15)
        bench.clock.advance(1)
        await check_times(bench, 1)
        # Eight units were spent in 1 s, and ten take 1.25 s. The bucket lacked 8 s.
        assert bench.acquired()[-1] == (10, 2_500_000)
        assert await bench.remaining("p") == 100 - 25 + 1
