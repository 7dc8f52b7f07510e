"""Prefetching: prefetches are acquired in one call, and spent locally in order."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from fleetlimit.core.decision import Source
from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.quota import rate_quota
from fleetlimit.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import Bench, rate_policy, remaining, timeout_error
from support.prefetch import BUCKET, WINDOW, check_times, remaining_of, start_checks
from support.stores import MINUTE_US


async def test_prefetches_double_up_to_the_maximum() -> None:
    """A prefetch is twice the last one until the maximum; the limit stays the same."""
    async with Bench(BUCKET) as bench:
        decisions = await check_times(bench, 75)

        assert bench.store.count("acquire") == 4 + 6
        assert [remaining_of(each) for each in decisions] == list(range(99, 24, -1))
        sources = Counter(each.source for each in decisions)
        assert sources == {Source.STORE: 10, Source.PREFETCH: 65}
        assert all(each.spent for each in decisions)


async def test_prefetch_durations_decrease_with_age() -> None:
    """Durations are the store's less the time since then, and stay above 0."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 1)
        bench.clock.advance(0.3)
        # Two units for twice 0.6 s: the bucket is full 1.2 s + 2 * 0.6 s later.
        await check_times(bench, 1)
        bench.clock.advance(0.5)
        (decision,) = await check_times(bench, 1)
        status = decision.results[0].limits[0].status
        assert status is not None
        assert (status.next_unit_after_us, status.reset_after_us) == (100_000, 1_900_000)

        # Four units for twice 1 s: the bucket is full 2 s + 4 * 0.6 s later, and has its next unit
        # after 0.2 s.
        await check_times(bench, 1)
        bench.clock.advance(1.9)
        (decision,) = await check_times(bench, 1)
        assert bench.store.count("acquire") == 3
        status = decision.results[0].limits[0].status
        assert status is not None
        assert (status.next_unit_after_us, status.reset_after_us) == (1, 2_500_000)


async def test_prefetch_expires_after_its_lifetime() -> None:
    """The bucket gains units again after the lifetime, so an expired prefetch is not spent."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 1)
        bench.clock.advance(1)
        # Two units for 4 s: the bucket is full 4 s + 2 * 0.6 s later.
        await check_times(bench, 2)
        assert await bench.remaining("p") == 91
        bench.clock.advance(0.5)
        # Four units for twice 1 s. The bucket is full 4.7 s + 4 * 0.6 s later.
        await check_times(bench, 1)
        assert await bench.remaining("p") == 88
        bench.clock.advance(1.999_999)
        # The two calls that are added read the remaining units.
        await check_times(bench, 1)
        assert bench.store.count("acquire") == 3 + 2
        bench.clock.advance(0.000_001)
        await check_times(bench, 1)
        assert bench.store.count("acquire") == 4 + 2
        # Two units of the last prefetch were used, so this one has two. The bucket is full
        # 5.1 s + 2 * 0.6 s later.
        assert await bench.remaining("p") == 89
        bench.clock.advance(6)
        await bench.limiter._gateway._prefetcher.reclaim()
        assert bench.store.adjustments == []


# Each replica has spent a unit, and spends one of a prefetch of 10 after the pause. The two hold 18
# units, until their prefetches expire.
@pytest.mark.parametrize(
    ("pause_us", "age_us", "together"),
    [
        # The bucket was full, and the first prefetch is spent 6 s ahead: it is full again after
        # 6 s + 20 * 0.6 s = 18 s. After 3 s it lacks 15 s, which are 25 units: 75 + 18.
        (MINUTE_US, 0, 70 + 18),
        (MINUTE_US, 3_000_000, 75 + 18),
        (MINUTE_US, 5_999_999, 79 + 18),
        (MINUTE_US, 6_000_000, 80),
        (MINUTE_US, 9_000_000, 85),
        (MINUTE_US, 11_999_999, 89),
        # The bucket lacks 1.2 s already, which is above 10 ms: 22 units are spent. The 4 that were
        # admitted and 96 more are the burst.
        (0, 0, 78 + 18),
        (0, 9_999, 78 + 18),
        (0, 10_000, 78),
        # After 0.9 s the bucket lacks 0.3 s. Twice 10 * 0.9 s exceeds 6 s: it is full 18 s later.
        (900_000, 0, 70 + 18),
        (900_000, 5_999_999, 79 + 18),
        # After 0.05 s the bucket lacks 1.15 s, which is above twice 10 * 0.05 s: it is full
        # 1.15 s + 12 s later. After 1 s it lacks 12.15 s, which are 20.25 units.
        (50_000, 0, 78 + 18),
        (50_000, 999_999, 79 + 18),
        (50_000, 1_000_000, 79),
    ],
)
async def test_prefetched_and_remaining_units_are_at_most_the_burst(
    pause_us: int, age_us: int, together: int
) -> None:
    """With prefetches of any age in two replicas, at most the burst is admitted at one instant."""
    store = MemoryStore((clock := ManualClock()).monotonic_us)
    fleet = Fleet(clock, lambda: store, BUCKET, replicas=("a", "b"))
    for wait_us in (0, pause_us):
        clock.advance_us(wait_us)
        for name in ("a", "b"):
            assert await fleet.spend(name, "p", "ann") == 1
            for bucket in fleet[name]._gateway._prefetcher._buckets.values():
                bucket._next_size = 10
    clock.advance_us(age_us)
    passed = [await fleet.spend(name, "p", "ann", times=101) for name in ("a", "b")]
    assert sum(passed) == together
    await fleet.aclose()


async def test_first_prefetch_covers_all_waiters() -> None:
    """Checks that start at the same time share a call, and nothing is left of it for others."""
    async with Bench(BUCKET) as bench:
        decisions = await asyncio.gather(*start_checks(bench, *[1] * 7))

        assert bench.store.count("acquire") == 1
        assert [remaining_of(each) for each in decisions] == [93] * 7


async def test_prefetch_makes_one_call_at_a_time_in_order() -> None:
    """A check that starts during a call waits for it, and none overtakes a larger cost."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("acquire")
        first = start_checks(bench, 1)
        await hold.wait()
        others = start_checks(bench, 20, 1, 1)
        await asyncio.sleep(0)
        assert bench.store.count("acquire") == 1
        hold.released.set()
        decisions = await asyncio.gather(*first, *others)

        # The second call is for all waiters, also above the largest prefetch.
        assert [remaining_of(each) for each in decisions] == [99, 77, 77, 77]
        assert bench.store.count("acquire") == 2


@pytest.mark.parametrize(
    ("costs", "expected", "calls"),
    [
        ((1, 3), [91, 88], 1),
        # The second call is for 9 + 1: both see the 75 units after it, and 3 of the first call.
        ((1, 3, 9, 1), [91, 88, 78, 78], 2),
    ],
)
async def test_prefetch_serves_later_waiters(
    costs: Sequence[int], expected: Sequence[int], calls: int
) -> None:
    """A prefetch serves checks that started during its call; only then there is another call."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 7)
        hold = bench.store.hold("acquire")
        first = start_checks(bench, 1)
        await hold.wait()
        others = start_checks(bench, *costs)
        await asyncio.sleep(0)
        hold.released.set()
        decisions = await asyncio.gather(*first, *others)
        assert [remaining_of(each) for each in decisions] == [92, *expected]
        assert bench.store.count("acquire") == 3 + calls


async def test_prefetch_larger_cost_gets_a_new_prefetch() -> None:
    """A cost up to the maximum is served from a new prefetch; the rest of the old one stays."""
    async with Bench(BUCKET) as bench:
        decisions = await check_times(bench, 4)
        decisions += await check_times(bench, 1, cost=7)
        decisions += await check_times(bench, 1)
        assert [remaining_of(each) for each in decisions][-2:] == [89, 88]
        assert bench.store.count("acquire") == 4
        assert await bench.remaining("p") == 86


async def test_prefetch_for_waiters_that_do_not_fit_is_not_lost() -> None:
    """A prefetch of ten serves the first waiter; its nine spare units serve later checks."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        await asyncio.gather(*start_checks(bench, 1, 10))
        (decision,) = await check_times(bench, 1)
        assert remaining_of(decision) == 100 - 3 - 1 - 10 - 1


async def test_prefetch_near_the_limit() -> None:
    """After a denied prefetch the waiters share the remaining units, and no more are acquired."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 75)
        before = bench.store.count("acquire")
        decisions = await asyncio.gather(*start_checks(bench, *[1] * 30))

        assert sum(each.allowed for each in decisions) == 25
        # A denied call for all, the 25 units that are left, and one denial for five.
        assert bench.store.count("acquire") == before + 3
        bench.clock.advance(1.3)
        assert [each.allowed for each in await check_times(bench, 3)] == [True, True, False]
        assert bench.store.count("acquire") == before + 3 + 3


async def test_prefetch_resumes_after_the_retry_time() -> None:
    """After the retry time of a denial prefetches are acquired as before."""
    async with Bench(BUCKET) as bench:
        assert sum(each.allowed for each in await check_times(bench, 105)) == 100
        bench.clock.advance(30)
        before = bench.store.count("acquire")
        await check_times(bench, 15)
        assert bench.store.count("acquire") == before + 2


async def test_prefetch_cost_above_the_maximum() -> None:
    """It is acquired as it is, as long as the bucket can hold it."""
    async with Bench(BUCKET) as bench:
        decisions = await check_times(bench, 2, cost=40)
        assert [remaining_of(each) for each in decisions] == [60, 20]
        assert [each.allowed for each in await check_times(bench, 1, cost=40)] == [False]


async def test_prefetch_leaves_other_checks_to_the_store() -> None:
    """A shadow policy and a cost of 0 are decided by the store; several policies are prefetched."""
    shadow = rate_policy("s", "100/minute", prefetch=0.1, mode=Mode.SHADOW)
    async with Bench(BUCKET, WINDOW, shadow) as bench:
        for _ in range(3):
            await bench.limiter.check("p", "w", principal="ann")
            await bench.limiter.check("s", principal="ann")
            await bench.limiter.check("p", principal="ann", cost=0)
        # The third check of both policies finds a unit of the second.
        assert bench.store.count("acquire") == 8
        # No unit was spent for a later check.
        assert [await bench.remaining(name) for name in ("p", "w", "s")] == [97, 97, 97]


async def test_prefetch_of_several_limits() -> None:
    """A prefetch is the same number of requests of all limits of the policy."""
    limits = (rate_quota("100/minute"), rate_quota("1000/hour", cost=2))
    async with Bench(Policy("p", limits, prefetch=0.1)) as bench:
        decisions = await check_times(bench, 4)
        statuses = [remaining(limit) for limit in decisions[-1].results[0].limits]
        assert (statuses, bench.store.count("acquire")) == ([96, 992], 3)


async def test_prefetches_are_spent_without_the_store() -> None:
    """A valid prefetch is spent during an outage; after that the policy's fallback applies."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        bench.store.down = timeout_error()
        assert [each.source for each in await check_times(bench, 1)] == [Source.LOCAL]
        bench.store.down = None
        await check_times(bench, 2)
        bench.store.down = timeout_error()
        sources = [each.source for each in await check_times(bench, 4)]
        assert sources == [Source.PREFETCH, Source.PREFETCH, Source.LOCAL, Source.LOCAL]


async def test_prefetch_failure_reaches_all_waiters() -> None:
    """A failed call is one failure, and all waiters are decided without the store."""
    async with Bench(BUCKET) as bench:
        bench.store.down = timeout_error()
        decisions = await asyncio.gather(*start_checks(bench, *[1] * 5))
        assert {each.source for each in decisions} == {Source.LOCAL}
        assert bench.store.count("acquire") == 1


async def test_prefetch_serves_waiters_of_a_slow_call() -> None:
    """Checks that started before the call are admitted; the rest of the prefetch has expired."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 1)
        hold = bench.store.hold("acquire", after_work=True)
        (task,) = start_checks(bench, 1)
        await hold.wait()
        bench.clock.advance(0.01)
        hold.released.set()
        assert (await task).source is Source.STORE
        await check_times(bench, 1)
        assert bench.store.count("acquire") == 3
