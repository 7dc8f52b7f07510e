"""Who goes away while a slice is under way loses nothing for the others."""

import asyncio

import pytest

from fleetlimit.core.keys import KeyScheme
from fleetlimit.limiter.plan import make_plan
from fleetlimit.limiter.prefetch import Waiter
from support.limiter import Bench, rate
from support.slices import ANN, BUCKET, WINDOW, begin, checks, left


@pytest.mark.parametrize("late", [False, True])
async def test_who_goes_away_loses_nothing(*, late: bool) -> None:
    """What was asked for one that is gone is there for the next."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("take", late=late)
        first, second = begin(bench, 1, 1)
        await hold.wait()
        first.cancel()
        hold.go.set()
        assert left(await second) == 89
        await checks(bench, 1)
        assert (bench.store.count("take"), await bench.left("p")) == (1, 88)


async def _gone_when_answered(bench: Bench) -> None:
    """Let two check, of whom the second goes away between its answer and its turn."""
    hold = bench.store.hold("take")
    first, second = begin(bench, 1, 1)
    await hold.wait()
    ((hot,),) = [bench.limiter._till.slices._hot.values()]
    hot.waiting[0].answer.add_done_callback(lambda _: second.cancel())
    hold.go.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_who_goes_away_when_the_answer_is_there() -> None:
    """Units that were given to a check that ends all the same are put back."""
    async with Bench(BUCKET) as bench:
        await _gone_when_answered(bench)
        (decision,) = await checks(bench, 1)
        assert (left(decision), bench.store.count("take")) == (88, 1)


async def test_who_goes_away_with_a_part_of_a_slice() -> None:
    """The slice that is still there has it again."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 3)
        await _gone_when_answered(bench)
        (decision,) = await checks(bench, 1)
        assert (left(decision), bench.store.count("take")) == (85, 3)


async def test_who_goes_away_after_all_was_given_back() -> None:
    """What is put back into a slice that was given back already is not given back again."""
    async with Bench(WINDOW) as bench:
        await checks(bench, 4, policy="w")
        slices = bench.limiter._till.slices
        ((hot,),) = [slices._hot.values()]
        waiter = Waiter(make_plan([(WINDOW, 1)], ANN, KeyScheme()), 1)
        (slice_,) = hot.slices
        hot.give(waiter, slice_, bench.clock.us)
        bench.clock.move(6)
        await checks(bench, 1, policy="w")
        await slices.beat()
        hot.put_back(waiter)
        await slices.beat()
        assert [each.delta for each in bench.store.settled] == [-2, -1]


async def test_who_goes_away_with_a_refusal() -> None:
    """A refusal took nothing, and nothing is put back."""
    async with Bench(rate("p", "2/minute", lease=0.5)) as bench:
        await checks(bench, 1)
        await _gone_when_answered(bench)
        ((hot,),) = [bench.limiter._till.slices._hot.values()]
        assert hot.slices == []


async def test_who_goes_away_before_a_refusal() -> None:
    """The others hear of it."""
    async with Bench(rate("p", "2/minute", lease=0.5)) as bench:
        await checks(bench, 1)
        hold = bench.store.hold("take")
        first, second, third = begin(bench, 1, 1, 1)
        await hold.wait()
        second.cancel()
        hold.go.set()
        assert not (await first).allowed
        assert not (await third).allowed
