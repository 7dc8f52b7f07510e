"""Denial cache: a flood does not reach the store, and no caller is denied for too long."""

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import BucketStatus, Source
from fleetlimit.core.policy import Mode
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.denial_cache import DECISION_REUSE_US, DenialCache
from fleetlimit.limiter.events import CheckDecided
from support.clock import ManualClock
from support.limiter import Bench, concurrency_policy, fixed_window, rate_policy, running

MINUTE = rate_quota("10/minute")
DENIED_STATUS = BucketStatus(
    allowed=False,
    remaining=0,
    retry_after_us=400_000,
    next_unit_after_us=300_000,
    reset_after_us=60_000_000,
)


async def _spend(bench: Bench, policy: str, cost: int = 1) -> None:
    assert (await bench.limiter.check(policy, principal="ann", cost=cost)).allowed


async def test_denial_cache_hit_makes_no_store_call() -> None:
    """While a denial is cached, the decision's source is the cache."""
    async with Bench(rate_policy("a", "1/minute"), rate_policy("b", "5/minute")) as bench:
        await _spend(bench, "a")
        await bench.limiter.check("a", principal="ann")
        calls = bench.store.count("acquire")
        flood = [await bench.limiter.check("a", "b", principal="ann") for _ in range(50)]
        assert bench.store.count("acquire") == calls
        assert {(each.outcome, each.source) for each in flood} == {("denied", Source.CACHE)}
        results = {each.policy: each for each in flood[-1].results}
        assert results["b"].outcome == "allowed"
        assert results["b"].limits[0].status is None
        assert [each.decision for each in bench.recorder.of(CheckDecided)][2:] == flood


async def test_denial_cache_separates_keys() -> None:
    """A cached denial of one key does not affect another."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await _spend(bench, "a")
        await bench.limiter.check("a", principal="ann")
        assert (await bench.limiter.check("a", principal="bob")).allowed


async def test_denial_cache_misses_for_a_smaller_cost() -> None:
    """A smaller cost may fit, so the store is called."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        await _spend(bench, "a", 8)
        assert not (await bench.limiter.check("a", principal="ann", cost=5)).allowed
        smaller = await bench.limiter.check("a", principal="ann", cost=2)
        assert (smaller.allowed, smaller.source) == (True, Source.STORE)


@pytest.mark.parametrize(
    ("quota", "larger_us"),
    [
        (rate_quota("10/minute"), 30_000_000),
        (rate_quota("7/minute"), 42_857_143),
        (fixed_window(10), 60_000_000),
        (rate_quota("10/minute", algorithm=Algorithm.SLIDING_WINDOW), None),
        (rate_quota("10/minute", algorithm=Algorithm.SLIDING_LOG), None),
    ],
    ids=str,
)
async def test_denial_cache_denies_every_larger_cost(quota: Quota, larger_us: int | None) -> None:
    """A larger cost is denied without a store call, and admitted after its own, longer wait.

    Sliding algorithms need the store for that wait; the cache has its upper bound, the reset.
    """
    async with Bench(rate_policy("a", quota)) as bench:
        await _spend(bench, "a", quota.burst)
        assert not (await bench.limiter.check("a", principal="ann", cost=1)).allowed
        calls = bench.store.count("acquire")
        for _ in range(3):
            larger = await bench.limiter.check("a", principal="ann", cost=5)
            smaller = await bench.limiter.check("a", principal="ann", cost=1)
            assert (larger.source, smaller.source) == (Source.CACHE, Source.CACHE)
            assert smaller.retry_after_us <= larger.retry_after_us
        assert bench.store.count("acquire") == calls
        if larger_us is not None:
            # Two roundings, each up to the next microsecond.
            assert larger.retry_after_us - larger_us in {0, 1}
        bench.clock.advance_us(larger.retry_after_us)
        assert (await bench.limiter.check("a", principal="ann", cost=5)).allowed


async def test_denial_cache_is_not_bypassed_by_alternating_costs() -> None:
    """A flood of mixed costs calls the store once for each new smallest cost."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        await _spend(bench, "a", 10)
        for cost in [7, 5, 9, 5, 1, 6, 1, 10] * 20:
            assert not (await bench.limiter.check("a", principal="ann", cost=cost)).allowed
        assert bench.store.count("acquire") == 1 + len([7, 5, 1])


async def test_denial_cache_entry_expires_after_a_second() -> None:
    """A long denial is checked again after a second, so that a reset elsewhere takes effect."""
    async with Bench(rate_policy("a", "1/hour")) as bench:
        await _spend(bench, "a")
        await bench.limiter.check("a", principal="ann")
        bench.clock.advance_us(999_999)
        assert (await bench.limiter.check("a", principal="ann")).source is Source.CACHE
        bench.clock.advance_us(1)
        assert (await bench.limiter.check("a", principal="ann")).source is Source.STORE


async def test_denial_cache_entry_expires_at_the_retry_time() -> None:
    """A denial for less than a second expires at its retry time."""
    async with Bench(rate_policy("a", "10/second")) as bench:
        await _spend(bench, "a", 10)
        denied = await bench.limiter.check("a", principal="ann")
        assert denied.retry_after_us == 100_000
        bench.clock.advance_us(99_999)
        late = await bench.limiter.check("a", principal="ann")
        assert (late.source, late.retry_after_us) == (Source.CACHE, 1)
        bench.clock.advance_us(1)
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_denial_cache_durations_decrease_with_age() -> None:
    """Cached durations shrink with the age of the entry, and stay above 0."""
    clock = ManualClock()
    cache = DenialCache(clock, BucketEvents())
    charge = Charge("k", MINUTE, 1)
    cache.add(charge, DENIED_STATUS)
    clock.advance_us(350_000)
    found = cache._status(charge, clock.monotonic_us())
    assert found is not None
    assert (found.retry_after_us, found.next_unit_after_us, found.reset_after_us) == (
        50_000,
        1,
        59_650_000,
    )
    assert not found.allowed


async def test_denial_cache_reuses_a_decision_for_10_ms() -> None:
    """Within 10 ms a caller gets the same decision, and then one with new durations."""
    async with Bench(rate_policy("a", "10/second")) as bench:
        await _spend(bench, "a", 10)
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        first = await bench.limiter.check("a", principal="ann")
        bench.clock.advance_us(DECISION_REUSE_US - 1)
        assert await bench.limiter.check("a", principal="ann") is first
        bench.clock.advance_us(1)
        second = await bench.limiter.check("a", principal="ann")
        assert second.retry_after_us == first.retry_after_us - DECISION_REUSE_US


async def test_denial_cache_reuses_a_decision_for_the_same_plan_only() -> None:
    """A check of more policies, or at another cost, gets a decision of its own."""
    async with Bench(rate_policy("a", "1/minute"), rate_policy("b", "5/minute")) as bench:
        await _spend(bench, "a")
        for _ in range(2):
            await bench.limiter.check("a", principal="ann")
        both = await bench.limiter.check("a", "b", principal="ann")
        assert [each.policy for each in both.results] == ["a", "b"]
        free = await bench.limiter.check("a", principal="ann", cost=0)
        assert (free.allowed, free.source) == (True, Source.STORE)


async def test_denial_cache_is_bounded() -> None:
    """Beyond its bound the cache drops the oldest denial, even if it was looked up."""
    clock = ManualClock()
    cache = DenialCache(clock, BucketEvents(), max_entries=2)
    one, two, three = (Charge(key, MINUTE, 1) for key in ("one", "two", "three"))
    cache.add(one, DENIED_STATUS)
    cache.add(two, DENIED_STATUS)
    assert cache._status(one, clock.monotonic_us()) == DENIED_STATUS
    cache.add(three, DENIED_STATUS)
    assert len(cache) == 2
    found = [cache._status(each, clock.monotonic_us()) for each in (one, two, three)]
    assert found == [None, DENIED_STATUS, DENIED_STATUS]


async def test_denial_cache_entry_added_again_is_the_newest() -> None:
    """A key that was denied again is not the next to be dropped."""
    clock = ManualClock()
    cache = DenialCache(clock, BucketEvents(), max_entries=2)
    one, two, three = (Charge(key, MINUTE, 1) for key in ("one", "two", "three"))
    for charge in (one, two, one, three):
        cache.add(charge, DENIED_STATUS)
    found = [cache._status(each, clock.monotonic_us()) for each in (one, two, three)]
    assert found == [DENIED_STATUS, None, DENIED_STATUS]


async def test_denial_cache_ignores_concurrency() -> None:
    """A lease can be released at any time, so the store is called every time."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        first = await bench.limiter.reserve("c", principal="ann")
        for _ in range(3):
            denied = await bench.limiter.reserve("c", principal="ann")
            assert denied.decision.source is Source.STORE
        await first.release()
        assert (await bench.limiter.reserve("c", principal="ann")).decision.allowed
    cache = DenialCache(ManualClock(), BucketEvents())
    cache.add(Charge("k", concurrency_quota(1), 1, "lease"), DENIED_STATUS)
    assert len(cache) == 0


async def test_denial_cache_ignores_shadow_denials() -> None:
    """The store counts charges in shadow mode every time."""
    async with Bench(rate_policy("s", "1/minute", mode=Mode.SHADOW)) as bench:
        for _ in range(4):
            await bench.limiter.check("s", principal="ann")
        assert bench.store.count("acquire") == 4


async def test_denial_cache_contains_only_denying_buckets() -> None:
    """A bucket that allowed, or is in shadow mode, does not deny the next request."""
    policies = (
        rate_policy("e", "1/minute"),
        rate_policy("roomy", "9/minute"),
        rate_policy("s", "1/minute", mode=Mode.SHADOW),
    )
    async with Bench(*policies) as bench:
        for _ in range(2):
            await bench.limiter.check("e", "roomy", "s", principal="ann")
        cached = await bench.limiter.check("e", "roomy", "s", principal="ann")
        assert cached.source is Source.CACHE
        assert [each.statuses == (None,) for each in cached.results] == [False, True, True]
        assert (await bench.limiter.check("roomy", principal="ann")).source is Source.STORE
        assert (await bench.limiter.check("s", principal="ann")).source is Source.STORE


async def test_denial_cache_drops_reset_buckets() -> None:
    """After a reset the next request is admitted."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await _spend(bench, "a")
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        await bench.limiter.reset("a", principal="ann")
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_denial_cache_drops_refunded_buckets() -> None:
    """After a refund the next request is admitted."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann")
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        await reservation.refund()
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_denial_cache_is_cleared_by_new_policies() -> None:
    """After a reload no request is denied by the previous policies."""
    async with Bench(rate_policy("a", fixed_window(1))) as bench:
        await _spend(bench, "a")
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        bench.limiter.active_policies.replace(PolicySet([rate_policy("a", fixed_window(3))]))
        assert (await bench.limiter.check("a", principal="ann")).allowed


@pytest.mark.parametrize("count", [0, 3])
async def test_denial_cache_length(count: int) -> None:
    """The length is the number of cached keys."""
    cache = DenialCache(ManualClock(), BucketEvents())
    for number in range(count):
        cache.add(Charge(str(number), MINUTE, 1), DENIED_STATUS)
    assert len(cache) == count
    cache.clear()
    assert len(cache) == 0


async def test_denial_of_a_check_in_flight_during_a_reload_does_not_deny_later_ones() -> None:
    """A check that was in flight during a reload does not deny later requests."""
    async with Bench(rate_policy("a", fixed_window(1))) as bench:
        await _spend(bench, "a")
        hold = bench.store.hold("acquire", after_work=True)
        async with running(bench.limiter.check("a", principal="ann")) as old:
            await hold.wait()
            bench.limiter.active_policies.replace(PolicySet([rate_policy("a", fixed_window(3))]))
            hold.released.set()
            assert not (await old).allowed
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_denial_during_a_reset_is_dropped() -> None:
    """A request denied while a reset is in flight does not deny later ones."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await _spend(bench, "a")
        hold = bench.store.hold("delete")
        async with running(bench.limiter.reset("a", principal="ann")) as reset:
            await hold.wait()
            assert not (await bench.limiter.check("a", principal="ann")).allowed
            hold.released.set()
            assert await reset == 1
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_denial_during_a_refund_is_dropped() -> None:
    """A request denied while a refund is in flight does not deny later ones."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann")
        hold = bench.store.hold("adjust")
        async with running(reservation.refund()) as refund:
            await hold.wait()
            assert not (await bench.limiter.check("a", principal="ann")).allowed
            hold.released.set()
            await refund
        assert (await bench.limiter.check("a", principal="ann")).allowed
