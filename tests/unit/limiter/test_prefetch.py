"""Slices: taken in one call, and spent without one, in order."""

import asyncio
from collections.abc import Sequence

import pytest

from fleetlimit.core.decision import Source
from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.quota import rate_quota
from fleetlimit.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import ManualClock as FleetClock
from support.limiter import Bench, rate_policy, remaining, timeout_error
from support.slices import BUCKET, WINDOW, check_times, remaining_of, start_checks
from support.stores import MINUTE_US


async def test_a_hot_bucket_needs_few_calls() -> None:
    """A slice is twice the last one until it is as large as it may be; the rest is as ever."""
    async with Bench(BUCKET) as bench:
        decisions = await check_times(bench, 75)

        assert bench.store.count("acquire") == 4 + 6
        assert [remaining_of(each) for each in decisions] == list(range(89, 14, -1))
        assert {each.source for each in decisions} == {Source.STORE}
        assert all(each.spent for each in decisions)


async def test_what_is_told_ages_with_the_slice() -> None:
    """The times are those of the store, less what has passed since, and never nothing."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 2)
        bench.clock.advance(0.5)
        (decision,) = await check_times(bench, 1)
        verdict = decision.results[0].limits[0].status
        assert verdict is not None
        assert (verdict.next_unit_after_us, verdict.reset_after_us) == (100_000, 1_300_000)

        await check_times(bench, 1)
        bench.clock.advance(3.5)
        (decision,) = await check_times(bench, 1)
        verdict = decision.results[0].limits[0].status
        assert verdict is not None
        assert (verdict.next_unit_after_us, verdict.reset_after_us) == (1, 200_000)


async def test_a_slice_ends_with_its_life() -> None:
    """What is left of a slice by then has been gained by the bucket, and is not used any more."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 4)
        assert await bench.remaining("p") == 83
        bench.clock.advance(5.999_999)
        await check_times(bench, 1)
        assert bench.store.count("acquire") == 3 + 1
        bench.clock.advance(0.000_001)
        await check_times(bench, 1)
        # Two of the last one were used: this one is as large.
        assert await bench.remaining("p") == 88
        bench.clock.advance(6)
        await bench.limiter._gateway._prefetcher.reclaim()
        assert bench.store.adjustments == []


@pytest.mark.parametrize(
    ("age_us", "together"),
    [(0, 88), (3_000_000, 93), (5_999_999, 97), (6_000_000, 80), (9_000_000, 85), (11_999_999, 89)],
)
async def test_what_is_held_and_what_is_there_is_the_burst(age_us: int, together: int) -> None:
    """However old the slices of two replicas are, at one instant no more passes than the burst."""
    store = MemoryStore(clock := FleetClock())
    fleet = Fleet(clock, lambda: store, BUCKET, replicas=("a", "b"))
    for _ in range(2):
        clock.advance_us(MINUTE_US)
        for name in ("a", "b"):
            assert await fleet.spend(name, "p", "ann") == 1
            for hot in fleet[name]._gateway._prefetcher._buckets.values():
                hot._next_size = 10
    clock.advance_us(age_us)
    passed = [await fleet.spend(name, "p", "ann", times=101) for name in ("a", "b")]
    assert sum(passed) == together
    await fleet.aclose()


async def test_the_first_call_is_as_large_as_what_waits() -> None:
    """Checks that come at the same time share a call."""
    async with Bench(BUCKET) as bench:
        decisions = await asyncio.gather(*start_checks(bench, *[1] * 7))

        assert bench.store.count("acquire") == 1
        assert [remaining_of(each) for each in decisions] == [89, 88, 87, 86, 85, 84, 83]


async def test_one_call_at_a_time_and_in_order() -> None:
    """Who comes while a call is under way waits for it, and nobody overtakes a larger cost."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("acquire")
        first = start_checks(bench, 1)
        await hold.wait()
        others = start_checks(bench, 20, 1, 1)
        await asyncio.sleep(0)
        assert bench.store.count("acquire") == 1
        hold.released.set()
        decisions = await asyncio.gather(*first, *others)

        # The second call is as large as its first waiter needs, the third for the rest.
        assert [remaining_of(each) for each in decisions] == [89, 69, 68, 67]
        assert bench.store.count("acquire") == 3


@pytest.mark.parametrize(
    ("costs", "told", "calls"), [((1, 3), [81, 78], 1), ((1, 3, 9, 1), [81, 78, 69, 68], 2)]
)
async def test_who_comes_meanwhile_has_what_is_left(
    costs: Sequence[int], told: Sequence[int], calls: int
) -> None:
    """A slice serves those who came while it was under way, and only then there is another call."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 7)
        hold = bench.store.hold("acquire")
        first = start_checks(bench, 1)
        await hold.wait()
        others = start_checks(bench, *costs)
        await asyncio.sleep(0)
        hold.released.set()
        decisions = await asyncio.gather(*first, *others)
        assert [remaining_of(each) for each in decisions] == [82, *told]
        assert bench.store.count("acquire") == 3 + calls


async def test_a_larger_cost_waits_for_a_slice_of_its_own() -> None:
    """Within a slice's reach it is served from one, and what was left before is used later."""
    async with Bench(BUCKET) as bench:
        decisions = await check_times(bench, 4)
        decisions += await check_times(bench, 1, cost=7)
        decisions += await check_times(bench, 1)
        assert [remaining_of(each) for each in decisions][-2:] == [79, 78]
        assert bench.store.count("acquire") == 4
        assert await bench.remaining("p") == 76


async def test_near_the_limit() -> None:
    """Where a slice is refused, what is there is shared among those who wait, and no more taken."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 75)
        before = bench.store.count("acquire")
        decisions = await asyncio.gather(*start_checks(bench, *[1] * 30))

        assert sum(each.allowed for each in decisions) == 15
        # A whole slice, a refused one, the five that are left, and one that is refused for all.
        assert bench.store.count("acquire") == before + 4
        bench.clock.advance(1.3)
        assert [each.allowed for each in await check_times(bench, 3)] == [True, True, False]
        assert bench.store.count("acquire") == before + 4 + 3


async def test_a_whole_slice_is_tried_again_when_there_is_room() -> None:
    """After the time that a refusal named slices are taken as before."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 95)
        bench.clock.advance(30)
        before = bench.store.count("acquire")
        await check_times(bench, 15)
        assert bench.store.count("acquire") == before + 2


async def test_a_cost_above_a_slice() -> None:
    """It is asked for as it is, as long as the bucket can hold it."""
    async with Bench(BUCKET) as bench:
        decisions = await check_times(bench, 2, cost=40)
        assert [remaining_of(each) for each in decisions] == [50, 10]
        assert [each.allowed for each in await check_times(bench, 1, cost=40)] == [False]


async def test_other_checks_ask_the_store() -> None:
    """Several policies, a policy in shadow and a cost of nothing are decided by the store."""
    shadow = rate_policy("s", "100/minute", prefetch=0.1, mode=Mode.SHADOW)
    async with Bench(BUCKET, WINDOW, shadow) as bench:
        for _ in range(3):
            await bench.limiter.check("p", "w", principal="ann")
            await bench.limiter.check("s", principal="ann")
            await bench.limiter.check("p", principal="ann", cost=0)
        assert bench.store.count("acquire") == 9
        # Under the same limit, so that the sum is exact.
        assert [await bench.remaining(name) for name in ("p", "w", "s")] == [87, 97, 87]


async def test_several_limits() -> None:
    """A slice is the same number of requests of all limits of the policy."""
    limits = (rate_quota("100/minute"), rate_quota("1000/hour", cost=2))
    async with Bench(Policy("p", limits, prefetch=0.1)) as bench:
        decisions = await check_times(bench, 4)
        verdicts = [remaining(limit) for limit in decisions[-1].results[0].limits]
        assert (verdicts, bench.store.count("acquire")) == ([86, 892], 3)


async def test_the_store_is_away() -> None:
    """A slice that lives is used, for it was spent; after that the policy does what it says."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        bench.store.down = timeout_error()
        assert [each.source for each in await check_times(bench, 1)] == [Source.LOCAL]
        bench.store.down = None
        await check_times(bench, 2)
        bench.store.down = timeout_error()
        sources = [each.source for each in await check_times(bench, 4)]
        assert sources == [Source.STORE, Source.STORE, Source.LOCAL, Source.LOCAL]


async def test_all_who_wait_hear_of_a_failure() -> None:
    """One call that fails is one failure, and everybody is decided without the store."""
    async with Bench(BUCKET) as bench:
        bench.store.down = timeout_error()
        decisions = await asyncio.gather(*start_checks(bench, *[1] * 5))
        assert {each.source for each in decisions} == {Source.LOCAL}
        assert bench.store.count("acquire") == 1


async def test_a_slow_answer() -> None:
    """Who asked before the store decided is let in, and what is left is used no longer."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 1)
        hold = bench.store.hold("acquire", after_work=True)
        (task,) = start_checks(bench, 1)
        await hold.wait()
        bench.clock.advance(6)
        hold.released.set()
        assert (await task).source is Source.STORE
        await check_times(bench, 1)
        assert bench.store.count("acquire") == 3
