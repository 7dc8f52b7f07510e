"""Who goes away while a slice is under way loses nothing for the others."""

import asyncio

import pytest

from fleetlimit.core.keys import KeyScheme
from fleetlimit.limiter.plan import make_plan
from fleetlimit.limiter.prefetch import Waiter
from support.limiter import Bench, rate_policy
from support.slices import ANN, BUCKET, WINDOW, check_times, remaining_of, start_checks


@pytest.mark.parametrize("late", [False, True])
async def test_who_goes_away_loses_nothing(*, late: bool) -> None:
    """What was asked for one that is gone is there for the next."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("acquire", after_work=late)
        first, second = start_checks(bench, 1, 1)
        await hold.wait()
        first.cancel()
        hold.released.set()
        assert remaining_of(await second) == 89
        await check_times(bench, 1)
        assert (bench.store.count("acquire"), await bench.remaining("p")) == (1, 88)


async def _cancel_when_answered(bench: Bench) -> None:
    """Let two check, of whom the second goes away between its answer and its turn."""
    hold = bench.store.hold("acquire")
    first, second = start_checks(bench, 1, 1)
    await hold.wait()
    ((hot,),) = [bench.limiter._gateway._prefetcher._buckets.values()]
    hot.waiters[0].reply.add_done_callback(lambda _: second.cancel())
    hold.released.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_who_goes_away_when_the_answer_is_there() -> None:
    """Units that were given to a check that ends all the same are put back."""
    async with Bench(BUCKET) as bench:
        await _cancel_when_answered(bench)
        (decision,) = await check_times(bench, 1)
        assert (remaining_of(decision), bench.store.count("acquire")) == (88, 1)


async def test_who_goes_away_with_a_part_of_a_slice() -> None:
    """The slice that is still there has it again."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        await _cancel_when_answered(bench)
        (decision,) = await check_times(bench, 1)
        assert (remaining_of(decision), bench.store.count("acquire")) == (85, 3)


async def test_who_goes_away_after_all_was_given_back() -> None:
    """What is put back into a slice that was given back already is not given back again."""
    async with Bench(WINDOW) as bench:
        await check_times(bench, 4, policy="w")
        slices = bench.limiter._gateway._prefetcher
        ((hot,),) = [slices._buckets.values()]
        waiter = Waiter(make_plan([(WINDOW, 1)], ANN, KeyScheme()), 1)
        (slice_,) = hot.batches
        hot.fulfil(waiter, slice_, bench.clock.us)
        bench.clock.advance(6)
        await check_times(bench, 1, policy="w")
        await slices.reclaim()
        hot.return_units(waiter)
        await slices.reclaim()
        assert [each.delta for each in bench.store.adjustments] == [-2, -1]


async def test_who_goes_away_with_a_refusal() -> None:
    """A refusal took nothing, and nothing is put back."""
    async with Bench(rate_policy("p", "2/minute", prefetch=0.5)) as bench:
        await check_times(bench, 1)
        await _cancel_when_answered(bench)
        ((hot,),) = [bench.limiter._gateway._prefetcher._buckets.values()]
        assert hot.batches == []


async def test_who_goes_away_before_a_refusal() -> None:
    """The others hear of it."""
    async with Bench(rate_policy("p", "2/minute", prefetch=0.5)) as bench:
        await check_times(bench, 1)
        hold = bench.store.hold("acquire")
        first, second, third = start_checks(bench, 1, 1, 1)
        await hold.wait()
        second.cancel()
        hold.released.set()
        assert not (await first).allowed
        assert not (await third).allowed
