"""Prefetching: a check that is cancelled does not affect the others."""

import asyncio

import pytest

from fleetlimit.core.keys import KeyScheme
from fleetlimit.limiter.plan import PolicyCost, make_plan
from fleetlimit.limiter.prefetch.bucket import Waiter
from support.limiter import Bench, rate_policy
from support.prefetch import ANN, BUCKET, WINDOW, check_times, remaining_of, start_checks


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_waiter_leaves_its_units(*, late: bool) -> None:
    """The units of a cancelled check are there for the next one while the prefetch lives."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        hold = bench.store.hold("acquire", after_work=late)
        first, second = start_checks(bench, 1, 1)
        await hold.wait()
        first.cancel()
        hold.released.set()
        # Seven units are spent in the store, and three of them are left here.
        assert remaining_of(await second) == 96
        (decision,) = await check_times(bench, 1)
        assert (remaining_of(decision), bench.store.count("acquire")) == (95, 3)
        assert await bench.remaining("p") == 93


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_waiter_of_a_prefetch_without_lifetime_is_refunded(*, late: bool) -> None:
    """Units that no other check waited for are refunded, and not spent by a later check."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("acquire", after_work=late)
        first, second = start_checks(bench, 5, 1)
        await hold.wait()
        first.cancel()
        hold.released.set()
        assert remaining_of(await second) == 94
        await _assert_refunded(bench)


async def _assert_refunded(bench: Bench) -> None:
    """Assert that five of six acquired units are refunded once, and not spent any more."""
    (decision,) = await check_times(bench, 1)
    assert (remaining_of(decision), bench.store.count("acquire")) == (93, 2)
    for _ in range(2):
        await bench.limiter._gateway._prefetcher.reclaim()
    # In the second that a refund may take, a token bucket refills up to two of the five units.
    assert [each.delta for each in bench.store.adjustments] == [-3]
    assert await bench.remaining("p") == 96


async def _cancel_when_answered(bench: Bench, cost: int = 1) -> None:
    """Start two checks, and cancel the second between its reply and its turn."""
    hold = bench.store.hold("acquire")
    first, second = start_checks(bench, 1, cost)
    await hold.wait()
    ((bucket,),) = [bench.limiter._gateway._prefetcher._buckets.values()]
    bucket.waiters[0].reply.add_done_callback(lambda _: second.cancel())
    hold.released.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_waiter_cancelled_after_its_reply_returns_its_units() -> None:
    """The units that it had received are returned to a prefetch without lifetime, and refunded."""
    async with Bench(BUCKET) as bench:
        await _cancel_when_answered(bench, cost=5)
        await _assert_refunded(bench)


async def test_waiter_cancelled_with_part_of_a_prefetch_returns_its_units() -> None:
    """The prefetch that still exists gets them back."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        await _cancel_when_answered(bench)
        (decision,) = await check_times(bench, 1)
        assert (remaining_of(decision), bench.store.count("acquire")) == (95, 3)


async def test_waiter_cancelled_with_the_last_units_returns_them() -> None:
    """The units return to a prefetch that was used up, and are spent while it lives."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        hold = bench.store.hold("acquire")
        (first,) = start_checks(bench, 1)
        await hold.wait()
        # It starts during the call for four units, and receives the three spare ones.
        (second,) = start_checks(bench, 3)
        await asyncio.sleep(0)
        ((bucket,),) = [bench.limiter._gateway._prefetcher._buckets.values()]
        bucket.waiters[0].reply.add_done_callback(lambda _: second.cancel())
        hold.released.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        decisions = await check_times(bench, 3)
        assert [remaining_of(each) for each in decisions] == [95, 94, 93]
        assert bench.store.count("acquire") == 3


async def test_units_returned_after_a_refund_are_not_refunded_again() -> None:
    """Units returned to a prefetch that was refunded are not refunded again."""
    async with Bench(WINDOW) as bench:
        await check_times(bench, 4, policy="w")
        prefetcher = bench.limiter._gateway._prefetcher
        ((bucket,),) = [prefetcher._buckets.values()]
        waiter = Waiter(make_plan([PolicyCost(WINDOW, 1)], ANN, KeyScheme()), 1)
        (prefetch,) = bucket.prefetches
        bucket.fulfil(waiter, prefetch, bench.clock.monotonic_us())
        bench.clock.advance(6)
        await check_times(bench, 1, policy="w")
        await prefetcher.reclaim()
        bucket.return_units(waiter)
        await prefetcher.reclaim()
        assert [each.delta for each in bench.store.adjustments] == [-2, -1]


async def test_waiter_cancelled_after_a_denial_returns_nothing() -> None:
    """A denial spent nothing."""
    async with Bench(rate_policy("p", "2/minute", prefetch=0.5)) as bench:
        await check_times(bench, 2)
        await _cancel_when_answered(bench)
        ((bucket,),) = [bench.limiter._gateway._prefetcher._buckets.values()]
        assert bucket.prefetches == []


async def test_waiter_cancelled_before_a_denial_does_not_affect_others() -> None:
    """The others are denied."""
    async with Bench(rate_policy("p", "2/minute", prefetch=0.5)) as bench:
        await check_times(bench, 2)
        hold = bench.store.hold("acquire")
        first, second, third = start_checks(bench, 1, 1, 1)
        await hold.wait()
        second.cancel()
        hold.released.set()
        assert not (await first).allowed
        assert not (await third).allowed
