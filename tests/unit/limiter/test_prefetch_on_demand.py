"""Prefetches with `prefetch: auto`: of buckets in demand, by their rate, while units are plenty."""

import pytest

from support.limiter import rate_policy
from support.prefetch import AheadBench, check_times

AUTO = rate_policy("p", "960/minute", prefetch="auto")
"""A prefetch has at most 60 units and lives for at most a second; 240 units are a quarter."""


@pytest.mark.parametrize(("pause_us", "prefetched"), [(999_999, True), (1_000_000, False)])
async def test_bucket_is_prefetched_from_the_second_check_in_a_lifetime(
    pause_us: int, *, prefetched: bool
) -> None:
    """The check after a longer pause calls the store as if it were the first."""
    async with AheadBench(AUTO) as bench:
        await check_times(bench, 1)
        assert not bench.prefetched()
        bench.clock.advance_us(pause_us)
        await check_times(bench, 1)
        assert bench.prefetched() == prefetched


@pytest.mark.parametrize(
    ("per_second", "most"),
    # Half of the units that are used in a second, rounded up, and at most the sixteenth.
    [(1, 1), (2, 1), (5, 3), (20, 10), (50, 25), (200, 60)],
)
async def test_prefetch_is_what_the_replica_uses_in_half_of_the_lifetime(
    per_second: int, most: int
) -> None:
    """The size follows the rate at this replica."""
    async with AheadBench(AUTO) as bench:
        for _ in range(min(400, 8 * per_second)):
            await check_times(bench, 1)
            bench.clock.advance_us(1_000_000 // per_second)
        assert max(units for units, _ in bench.acquired()) == most


async def test_last_quarter_is_acquired_by_the_demand() -> None:
    """No spare unit is acquired from a bucket with little left, and each of its units is used."""
    async with AheadBench(AUTO) as bench:
        decisions = await check_times(bench, 970)
        assert [each.allowed for each in decisions] == [True] * 960 + [False] * 10
        left, spare = 960, []
        for units, ahead_us in bench.acquired():
            if ahead_us:
                spare.append(left)
            left -= units
        assert min(spare) >= 240
        assert len(spare) > 10
