"""The denial cache: a flood costs the store nothing, and nobody is refused for it too long."""

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import BucketStatus, Source
from fleetlimit.core.policy import Mode, PolicySet
from fleetlimit.core.quota import concurrency_quota, rate_quota
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.denial_cache import DECISION_REUSE_US, DenialCache
from fleetlimit.limiter.events import CheckDecided
from support.limiter import (
    Bench,
    ManualClock,
    concurrency_policy,
    fixed_window,
    rate_policy,
    running,
)

MINUTE = rate_quota("10/minute")
REFUSED = BucketStatus(
    allowed=False,
    remaining=0,
    retry_after_us=400_000,
    next_unit_after_us=300_000,
    reset_after_us=60_000_000,
)


async def _spend(bench: Bench, policy: str, cost: int = 1) -> None:
    assert (await bench.limiter.check(policy, principal="ann", cost=cost)).allowed


async def test_a_known_denial_costs_no_store_call() -> None:
    """While a key is known to be denied, the store is not asked, and the source says so."""
    async with Bench(rate_policy("a", "1/minute"), rate_policy("b", "5/minute")) as bench:
        await _spend(bench, "a")
        await bench.limiter.check("a", principal="ann")
        asked = bench.store.count("acquire")
        flood = [await bench.limiter.check("a", "b", principal="ann") for _ in range(50)]
        assert bench.store.count("acquire") == asked
        assert {(each.outcome, each.source) for each in flood} == {("denied", Source.CACHE)}
        results = {each.policy: each for each in flood[-1].results}
        assert results["b"].outcome == "allowed"
        assert results["b"].limits[0].status is None
        assert [each.decision for each in bench.recorder.of(CheckDecided)][2:] == flood


async def test_another_caller_is_asked_for() -> None:
    """What is known of one key says nothing about another."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await _spend(bench, "a")
        await bench.limiter.check("a", principal="ann")
        assert (await bench.limiter.check("a", principal="bob")).allowed


async def test_a_smaller_cost_is_asked_for() -> None:
    """A cost below the refused one may fit, so the store is asked."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        await _spend(bench, "a", 8)
        assert not (await bench.limiter.check("a", principal="ann", cost=5)).allowed
        smaller = await bench.limiter.check("a", principal="ann", cost=2)
        assert (smaller.allowed, smaller.source) == (True, Source.STORE)


async def test_a_larger_cost_is_told_its_own_wait() -> None:
    """A cost above the refused one waits longer, so it is not given the smaller one's wait."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        await _spend(bench, "a", 10)
        smaller = await bench.limiter.check("a", principal="ann", cost=1)
        larger = await bench.limiter.check("a", principal="ann", cost=5)
        assert (smaller.retry_after_us, larger.retry_after_us) == (6_000_000, 30_000_000)
        bench.clock.us += larger.retry_after_us
        assert (await bench.limiter.check("a", principal="ann", cost=5)).allowed


async def test_an_entry_lives_for_a_second_at_most() -> None:
    """A long denial is asked for again after a second, so that a reset elsewhere is noticed."""
    async with Bench(rate_policy("a", "1/hour")) as bench:
        await _spend(bench, "a")
        await bench.limiter.check("a", principal="ann")
        bench.clock.us += 999_999
        assert (await bench.limiter.check("a", principal="ann")).source is Source.CACHE
        bench.clock.us += 1
        assert (await bench.limiter.check("a", principal="ann")).source is Source.STORE


async def test_an_entry_lives_no_longer_than_the_promise() -> None:
    """A denial for less than a second is forgotten at the moment it promised."""
    async with Bench(rate_policy("a", "10/second")) as bench:
        await _spend(bench, "a", 10)
        refused = await bench.limiter.check("a", principal="ann")
        assert refused.retry_after_us == 100_000
        bench.clock.us += 99_999
        late = await bench.limiter.check("a", principal="ann")
        assert (late.source, late.retry_after_us) == (Source.CACHE, 1)
        bench.clock.us += 1
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_the_times_of_a_known_denial_count_down() -> None:
    """A remembered verdict's times shrink with its age, and none falls below a microsecond."""
    clock = ManualClock()
    cache = DenialCache(clock, BucketEvents())
    charge = Charge("k", MINUTE, 1)
    cache.add(charge, REFUSED)
    clock.us += 350_000
    found = cache._status(charge, clock.us)
    assert found is not None
    assert (found.retry_after_us, found.next_unit_after_us, found.reset_after_us) == (
        50_000,
        1,
        59_650_000,
    )
    assert not found.allowed


async def test_a_flood_is_told_the_same_for_a_moment() -> None:
    """For 10 ms a refused caller is given one decision again, and then one with new figures."""
    async with Bench(rate_policy("a", "10/second")) as bench:
        await _spend(bench, "a", 10)
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        first = await bench.limiter.check("a", principal="ann")
        bench.clock.us += DECISION_REUSE_US - 1
        assert await bench.limiter.check("a", principal="ann") is first
        bench.clock.us += 1
        second = await bench.limiter.check("a", principal="ann")
        assert second.retry_after_us == first.retry_after_us - DECISION_REUSE_US


async def test_a_decision_is_given_again_for_the_same_question_only() -> None:
    """A check of more policies, or at another cost, is not told what another one was told."""
    async with Bench(rate_policy("a", "1/minute"), rate_policy("b", "5/minute")) as bench:
        await _spend(bench, "a")
        for _ in range(2):
            await bench.limiter.check("a", principal="ann")
        both = await bench.limiter.check("a", "b", principal="ann")
        assert [each.policy for each in both.results] == ["a", "b"]
        free = await bench.limiter.check("a", principal="ann", cost=0)
        assert (free.allowed, free.source) == (True, Source.STORE)


async def test_the_cache_is_bounded() -> None:
    """Beyond its bound the cache drops the oldest denial, whether it was looked up or not."""
    clock = ManualClock()
    cache = DenialCache(clock, BucketEvents(), max_entries=2)
    one, two, three = (Charge(key, MINUTE, 1) for key in ("one", "two", "three"))
    cache.add(one, REFUSED)
    cache.add(two, REFUSED)
    assert cache._status(one, clock.us) == REFUSED
    cache.add(three, REFUSED)
    assert len(cache) == 2
    found = [cache._status(each, clock.us) for each in (one, two, three)]
    assert found == [None, REFUSED, REFUSED]


async def test_a_remembered_key_that_is_remembered_again_is_the_newest() -> None:
    """A key that was refused again is not the next to be dropped."""
    clock = ManualClock()
    cache = DenialCache(clock, BucketEvents(), max_entries=2)
    one, two, three = (Charge(key, MINUTE, 1) for key in ("one", "two", "three"))
    for charge in (one, two, one, three):
        cache.add(charge, REFUSED)
    found = [cache._status(each, clock.us) for each in (one, two, three)]
    assert found == [REFUSED, None, REFUSED]


async def test_concurrency_is_never_remembered() -> None:
    """A lease may end at any moment, so a full policy is asked every time."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        first = await bench.limiter.reserve("c", principal="ann")
        for _ in range(3):
            refused = await bench.limiter.reserve("c", principal="ann")
            assert refused.decision.source is Source.STORE
        await first.release()
        assert (await bench.limiter.check("c", principal="ann")).allowed
    cache = DenialCache(ManualClock(), BucketEvents())
    cache.add(Charge("k", concurrency_quota(1), 1, "lease"), REFUSED)
    assert len(cache) == 0


async def test_a_shadow_denial_is_not_remembered() -> None:
    """What refuses nobody is counted by the store every time."""
    async with Bench(rate_policy("s", "1/minute", mode=Mode.SHADOW)) as bench:
        for _ in range(4):
            await bench.limiter.check("s", principal="ann")
        assert bench.store.count("acquire") == 4


async def test_only_the_buckets_that_refused_are_remembered() -> None:
    """A bucket that had room, or that only counts, does not refuse the next request."""
    policies = (
        rate_policy("e", "1/minute"),
        rate_policy("roomy", "9/minute"),
        rate_policy("s", "1/minute", mode=Mode.SHADOW),
    )
    async with Bench(*policies) as bench:
        for _ in range(2):
            await bench.limiter.check("e", "roomy", "s", principal="ann")
        assert (await bench.limiter.check("roomy", principal="ann")).source is Source.STORE
        assert (await bench.limiter.check("s", principal="ann")).source is Source.STORE


async def test_a_reset_is_felt_at_once() -> None:
    """After a reset the next request is let in, though it was known to be denied."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await _spend(bench, "a")
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        await bench.limiter.reset("a", principal="ann")
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_a_refund_is_felt_at_once() -> None:
    """After a refund the next request is let in, though it was known to be denied."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann")
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        await reservation.refund()
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_new_policies_are_felt_at_once() -> None:
    """After a reload nobody is refused by what the old policies said."""
    async with Bench(rate_policy("a", fixed_window(1))) as bench:
        await _spend(bench, "a")
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        bench.limiter.active_policies.replace(PolicySet([rate_policy("a", fixed_window(3))]))
        assert (await bench.limiter.check("a", principal="ann")).allowed


@pytest.mark.parametrize("count", [0, 3])
async def test_the_cache_knows_its_size(count: int) -> None:
    """The cache's length is the number of keys that it remembers."""
    cache = DenialCache(ManualClock(), BucketEvents())
    for number in range(count):
        cache.add(Charge(str(number), MINUTE, 1), REFUSED)
    assert len(cache) == count
    cache.clear()
    assert len(cache) == 0


async def test_a_denial_that_comes_after_a_reload_does_not_outlive_it() -> None:
    """A check that was under way during a reload does not refuse those that come after."""
    async with Bench(rate_policy("a", fixed_window(1))) as bench:
        await _spend(bench, "a")
        hold = bench.store.hold("acquire", after_work=True)
        async with running(bench.limiter.check("a", principal="ann")) as old:
            await hold.wait()
            bench.limiter.active_policies.replace(PolicySet([rate_policy("a", fixed_window(3))]))
            hold.released.set()
            assert not (await old).allowed
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_a_denial_during_a_reset_does_not_outlive_it() -> None:
    """A request refused while a reset is under way is not remembered beyond it."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await _spend(bench, "a")
        hold = bench.store.hold("delete")
        async with running(bench.limiter.reset("a", principal="ann")) as reset:
            await hold.wait()
            assert not (await bench.limiter.check("a", principal="ann")).allowed
            hold.released.set()
            assert await reset == 1
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_a_denial_during_a_refund_does_not_outlive_it() -> None:
    """A request refused while a refund is under way is not remembered beyond it."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann")
        hold = bench.store.hold("adjust")
        async with running(reservation.refund()) as refund:
            await hold.wait()
            assert not (await bench.limiter.check("a", principal="ann")).allowed
            hold.released.set()
            await refund
        assert (await bench.limiter.check("a", principal="ann")).allowed
