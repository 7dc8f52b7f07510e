"""Prefetched units of a replica that the store has denied, and what it says is left."""

import asyncio

import pytest

from fleetlimit.core.decision import Decision, Source
from fleetlimit.core.policy import Mode
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import Bench, fixed_window, rate_policy
from support.prefetch import KeptStore, check_times, remaining_of

SHARED = rate_policy("p", fixed_window(100), prefetch=0.3)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fleet(clock: ManualClock) -> Fleet:
    """Return two replicas of a policy with prefetch, and of one in shadow mode without."""
    store = KeptStore(clock.monotonic_us)
    shadow = rate_policy("s", "10000/hour", mode=Mode.SHADOW)
    return Fleet(clock, lambda: store, SHARED, shadow, replicas=("a", "b"))


async def test_replica_spends_what_it_holds_after_a_denial_of_another_check(
    fleet: Fleet, clock: ManualClock
) -> None:
    """A check that is not prefetched finds the bucket empty, and the units held here remain."""
    replica = fleet["a"]
    for _ in range(17):
        clock.advance(0.01)
        assert (await replica.check("p", principal="ann")).allowed
    [bucket] = replica._gateway._prefetcher._buckets.values()
    held = bucket._left(clock.monotonic_us())
    others = 100 - 17 - held
    decisions = [await replica.check("p", "s", principal="ann") for _ in range(others + 1)]
    assert [each.allowed for each in decisions] == [True] * others + [False]
    # The flood renews the cached denial.
    own: list[Decision] = []
    for _ in range(held + 1):
        assert not (await replica.check("p", "s", principal="ann")).allowed
        own.append(await replica.check("p", principal="ann"))
    assert [each.allowed for each in own] == [True] * held + [False]
    assert {each.source for each in own[:-1]} == {Source.PREFETCH}
    await fleet.aclose()


async def test_larger_check_is_still_denied_from_the_cache(fleet: Fleet) -> None:
    """The units that the replica holds are too few for it, and the store is not asked again."""
    replica = fleet["a"]
    for _ in range(4):
        assert (await replica.check("p", principal="ann")).allowed
    decisions = [await replica.check("p", principal="ann", cost=99) for _ in range(2)]
    assert [each.source for each in decisions] == [Source.STORE, Source.CACHE]
    await fleet.aclose()


async def test_remaining_after_a_denial_is_what_the_store_said_and_what_is_held(
    fleet: Fleet,
) -> None:
    """Another replica has spent the rest, which the replica knows from the denial."""
    replica, other = fleet["a"], fleet["b"]
    for _ in range(5):
        await replica.check("p", principal="ann")
    left = remaining_of(await other.peek("p", principal="ann", cost=0))
    assert (await other.check("p", principal="ann", cost=left)).allowed
    assert not (await replica.check("p", principal="ann", cost=30)).allowed
    decision = await replica.check("p", principal="ann")
    [bucket] = replica._gateway._prefetcher._buckets.values()
    assert decision.source is Source.PREFETCH
    assert remaining_of(decision) == bucket._left(fleet.clock.monotonic_us())
    await fleet.aclose()


@pytest.mark.parametrize("prefetch", [0.5, "auto"])
async def test_more_concurrent_checks_than_the_limit_leave_prefetching_on(prefetch: object) -> None:
    """The wait of a charge that no full bucket could admit says nothing about the bucket."""
    calls = []
    for concurrent in (100, 400):
        async with Bench(rate_policy("p", "100/minute", prefetch=prefetch)) as bench:
            checks = [bench.limiter.check("p", principal="ann") for _ in range(concurrent)]
            decisions = await asyncio.gather(*checks)
            assert sum(each.allowed for each in decisions) == 100
            bench.clock.advance(120)
            before = bench.store.count("acquire")
            await check_times(bench, 40)
            calls.append(bench.store.count("acquire") - before)
    assert max(calls) <= 10
