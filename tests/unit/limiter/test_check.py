"""Limiter: check, peek and reset."""

import asyncio

import pytest

from fleetlimit.core.decision import EXEMPT, Outcome, Source
from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Mode
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError, CostError
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.events import CheckCancelled, CheckDecided, PoliciesLoaded
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.stores.memory import MemoryStore
from support.limiter import Bench, concurrency_policy, fixed_window, rate_policy, remaining


async def test_check_denies_above_the_limit() -> None:
    """A limit of two admits two requests and denies the third, with the time to wait."""
    async with Bench(rate_policy("a", "2/minute")) as bench:
        decisions = [await bench.limiter.check("a", principal="ann") for _ in range(3)]
    assert [each.outcome for each in decisions] == ["allowed", "allowed", "denied"]
    assert [each.source for each in decisions] == [Source.STORE] * 3
    assert [each.spent for each in decisions] == [True, True, False]
    assert decisions[-1].retry_after_us == 30_000_000
    assert decisions[-1].denied_by == ("a",)


async def test_check_admits_exactly_at_the_retry_time() -> None:
    """A request at the retry time is admitted; one microsecond earlier it is denied."""
    async with Bench(rate_policy("a", "3/second")) as bench:
        for _ in range(3):
            await bench.limiter.check("a", principal="ann")
        denied = await bench.limiter.check("a", principal="ann")
        bench.clock.advance_us(denied.retry_after_us - 1)
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        bench.clock.advance_us(1)
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_check_separates_callers_fastapi_limiter_80() -> None:
    """One caller's requests do not spend from another caller's bucket."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        for name in ("ann", "bob"):
            assert (await bench.limiter.check("a", principal=Principal(name))).allowed
        one, two = Subject("192.0.2.1"), Subject("192.0.2.2")
        for subject in (one, two):
            assert (await bench.limiter.check("a", subject=subject)).allowed
        assert not (await bench.limiter.check("a", subject=one)).allowed


async def test_check_of_several_policies_is_one_store_call() -> None:
    """A check of several policies with several limits calls the store once."""
    policies = (
        rate_policy("a", "9/second", "50/minute"),
        rate_policy("b", "7/minute"),
        concurrency_policy("c", 3),
    )
    async with Bench(*policies) as bench:
        reservation = await bench.limiter.reserve("a", "b", "c", principal="ann")
        assert bench.store.calls == ["acquire"]
        limits = [limit for each in reservation.decision.results for limit in each.limits]
        assert [remaining(limit) for limit in limits] == [8, 49, 6, 2]


async def test_denied_check_spends_nothing_envoyproxy_ratelimit_427() -> None:
    """A request that one policy denies spends nothing in the others, in any order."""
    async with Bench(rate_policy("roomy", "10/minute"), rate_policy("tight", "1/minute")) as bench:
        await bench.limiter.check("tight", principal="ann")
        for order in (("roomy", "tight"), ("tight", "roomy")):
            bench.clock.advance(1)
            denied = await bench.limiter.check(*order, principal="ann")
            assert denied.denied_by == ("tight",)
            assert not denied.spent
        assert bench.store.count("acquire") == 3
        assert await bench.remaining("roomy") == 10


async def test_denied_check_spends_nothing_in_its_own_policy_envoyproxy_ratelimit_440() -> None:
    """A policy whose second limit denies spends nothing from its first limit."""
    async with Bench(rate_policy("a", "5/second", "1/hour")) as bench:
        await bench.limiter.check("a", principal="ann")
        bench.clock.advance(1)
        await bench.limiter.check("a", principal="ann")
        assert await bench.remaining("a") == 5


async def test_check_of_different_costs_is_all_or_nothing() -> None:
    """Each policy has its own cost, and all are spent or none is."""
    cheap, dear = rate_policy("cheap", "10/minute"), rate_policy("dear", "10/minute")
    subject = Subject(principal=Principal("ann"))
    async with Bench(cheap, dear) as bench:
        costs = [PolicyCost(cheap, 1), PolicyCost(dear, 6)]
        assert (await bench.limiter.admit(costs, subject)).decision.allowed
        denied = (await bench.limiter.admit(costs, subject)).decision
        assert denied.denied_by == ("dear",)
        assert [each.outcome for each in denied.results] == ["allowed", "denied"]
        assert (await bench.remaining("cheap"), await bench.remaining("dear")) == (9, 4)


async def test_check_returns_the_longest_wait() -> None:
    """A request that two policies deny gets the longer of the two waits."""
    async with Bench(rate_policy("hour", "1/hour"), rate_policy("minute", "1/minute")) as bench:
        for name in ("hour", "minute"):
            await bench.limiter.check(name, principal="ann")
        denied = await bench.limiter.check("hour", "minute", principal="ann")
        assert denied.denied_by == ("hour", "minute")
        assert denied.retry_after_us == 3_600_000_000


async def test_check_uses_the_limits_of_the_tier_slowapi_13() -> None:
    """A principal has its tier's limits, or the policy's own if the tier has none."""
    policy = rate_policy("a", "1/minute", tiers={"pro": (rate_quota("9/minute"),)})
    async with Bench(policy) as bench:
        pro = await bench.limiter.check("a", principal=Principal("ann", "pro"))
        free = await bench.limiter.check("a", principal=Principal("bob", "free"))
        assert [remaining(each.results[0].limits[0]) for each in (pro, free)] == [8, 0]


async def test_check_counts_a_repeated_policy_once() -> None:
    """A policy that is named twice in one check is spent once, at its first cost."""
    policy = rate_policy("a", "10/minute")
    async with Bench(policy) as bench:
        decision = await bench.limiter.check("a", policy, "a", principal="ann")
        assert len(decision.results) == 1
        costs = [PolicyCost(policy, 2), PolicyCost(policy, 5)]
        await bench.limiter.admit(costs, Subject(principal=Principal("ann")))
        assert await bench.remaining("a") == 7


async def test_admit_rejects_a_negative_cost() -> None:
    """Not even a policy in shadow mode admits a request at a negative cost."""
    async with Bench() as bench:
        costs = [PolicyCost(rate_policy("a", "9/minute", mode=Mode.SHADOW), -1)]
        with pytest.raises(CostError):
            await bench.limiter.admit(costs, Subject(principal=Principal("ann")))
        assert bench.store.calls == []


@pytest.mark.parametrize("cost", [-1, 6])
async def test_check_rejects_an_impossible_cost(cost: int) -> None:
    """A negative cost, or one that no limit can hold, raises before the store is called."""
    async with Bench(rate_policy("wide", "100/minute"), rate_policy("a", "5/minute")) as bench:
        with pytest.raises(CostError):
            await bench.limiter.check("wide", "a", principal="ann", cost=cost)
        with pytest.raises(CostError):
            await bench.limiter.peek("wide", "a", principal="ann", cost=cost)
        assert bench.store.calls == []
        assert bench.recorder.of(CheckDecided) == []


async def test_check_of_cost_zero_spends_nothing() -> None:
    """A cost of 0 is admitted and leaves the bucket full."""
    async with Bench(rate_policy("a", "5/minute")) as bench:
        decision = await bench.limiter.check("a", principal="ann", cost=0)
        assert decision.allowed
        assert remaining(decision.results[0].limits[0]) == 5
        assert len(bench.store.memory) == 0


async def test_check_without_a_policy_is_exempt() -> None:
    """A request without a policy is decided without the store, and counted."""
    async with Bench(rate_policy("a", "5/minute", mode=Mode.OFF)) as bench:
        assert await bench.limiter.check("a", principal="ann") == EXEMPT
        async with await bench.limiter.reserve() as reservation:
            assert reservation.decision == EXEMPT
        assert await bench.limiter.peek("a", principal="ann") == EXEMPT
        assert bench.store.calls == []
        outcomes = [each.decision.outcome for each in bench.recorder.of(CheckDecided)]
        assert outcomes == [Outcome.EXEMPT] * 2


async def test_check_rejects_an_unknown_policy() -> None:
    """The message lists the active policies."""
    async with Bench(rate_policy("a", "5/minute"), rate_policy("b", "5/minute")) as bench:
        with pytest.raises(ConfigError, match=r"no policy 'c' in code: a, b$"):
            await bench.limiter.check("c")
        bench.limiter.active_policies.replace(PolicySet(source="empty.yaml"))
        with pytest.raises(ConfigError, match=r"in empty\.yaml: none$"):
            await bench.limiter.check("a")


async def test_peek_spends_nothing_and_emits_nothing() -> None:
    """A peek returns what a check would, and changes neither buckets nor counters."""
    async with Bench(rate_policy("a", "2/minute")) as bench:
        looks = [await bench.limiter.peek("a", principal="ann") for _ in range(5)]
        assert {each.outcome for each in looks} == {Outcome.ALLOWED}
        assert not any(each.spent for each in looks)
        await bench.limiter.check("a", principal="ann", cost=2)
        denied = await bench.limiter.peek("a", principal="ann")
        assert (denied.outcome, denied.retry_after_us) == (Outcome.DENIED, 30_000_000)
        assert len(bench.recorder.of(CheckDecided)) == 1


async def test_reset_deletes_all_buckets_of_a_caller() -> None:
    """A reset makes a caller's buckets full, in all tiers, and does not affect other callers."""
    policy = rate_policy("a", "1/minute", tiers={"pro": (rate_quota("2/hour"),)})
    async with Bench(policy) as bench:
        for caller in (Principal("ann"), Principal("ann", "pro"), Principal("bob")):
            await bench.limiter.check("a", principal=caller)
        assert await bench.limiter.reset("a", principal="ann") == 2
        assert await bench.limiter.reset("a", principal="ann") == 0
        assert (await bench.limiter.check("a", principal="ann")).allowed
        assert not (await bench.limiter.check("a", principal="bob")).allowed


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each != "concurrency"])
async def test_check_admits_the_limit_at_one_instant(algorithm: Algorithm) -> None:
    """At one instant every algorithm admits its limit, and again after a reset."""
    async with Bench(rate_policy("a", rate_quota("4/minute", algorithm=algorithm))) as bench:
        for _ in range(2):
            allowed = [(await bench.limiter.check("a", principal="x")).allowed for _ in range(6)]
            assert sum(allowed) == 4
            await bench.limiter.reset("a", principal="x")


async def test_check_emits_one_event() -> None:
    """The event has the decision that was returned, the caller, the route and the duration."""
    global_key = (KeyPart(KeyKind.GLOBAL),)
    async with Bench(rate_policy("a", "1/minute", key=global_key)) as bench:
        ann = Subject("192.0.2.1", Principal("ann", "pro"), "GET /x")
        anonymous = Subject("192.0.2.9", route="GET /y")
        hold = bench.store.hold("acquire", after_work=True)
        hold.released.set()
        decisions = [await bench.limiter.check("a", subject=each) for each in (ann, anonymous)]
        events = bench.recorder.of(CheckDecided)
        assert [each.decision for each in events] == decisions
        assert [each.decision.outcome for each in events] == ["allowed", "denied"]
        assert [(each.anonymous, each.tier, each.route) for each in events] == [
            (False, "pro", "GET /x"),
            (True, "", "GET /y"),
        ]
        hashes = {each.subject_hash for each in events}
        assert hashes == {bench.limiter.subject_hash(each) for each in (ann, anonymous)}
        assert not {"ann", "192.0.2.9"} & hashes
        assert [each.seconds for each in events] == [0, 0]


async def test_cancelled_check_emits_an_event_of_its_own() -> None:
    """The store may have spent the units of a cancelled request, unseen by every decision."""
    async with Bench(rate_policy("a", "3/minute"), rate_policy("b", "9/minute")) as bench:
        ann = Subject("192.0.2.1", Principal("ann"), "GET /x")
        hold = bench.store.hold("acquire", after_work=True)
        check = asyncio.create_task(bench.limiter.check("a", "b", subject=ann))
        await hold.wait()
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check
        expected = CheckCancelled(("a", "b"), bench.limiter.subject_hash(ann), "GET /x")
        assert bench.recorder.of(CheckCancelled) == [expected]
        assert bench.recorder.of(CheckDecided) == []
        hold.released.set()
        assert await bench.remaining("a", "ann") == 2


async def test_check_event_has_the_duration() -> None:
    """The seconds of an event are those between the call and the decision."""

    class Ticking:
        us = 0

        def monotonic_us(self) -> int:
            self.us += 250_000
            return self.us

    bench = Bench()
    limiter = Limiter(bench.store, local=bench.local, clock=Ticking(), observers=[bench.recorder])
    await limiter.check(rate_policy("a", "1/minute"), principal="ann")
    assert [each.seconds for each in bench.recorder.of(CheckDecided)] == [0.25]


async def test_limiter_needs_only_stores() -> None:
    """A limiter without other arguments uses the clock of the process."""
    limiter = Limiter(MemoryStore(), local=MemoryStore())
    assert (await limiter.check(rate_policy("a", "1/hour"), principal="ann")).allowed
    assert not (await limiter.check(rate_policy("a", "1/hour"), principal="ann")).allowed
    await limiter.aclose()


async def test_monotonic_clock_never_goes_back() -> None:
    """The process's clock counts microseconds forwards."""
    clock = MonotonicClock()
    readings = [clock.monotonic_us() for _ in range(100)]
    assert readings == sorted(readings)


async def test_limiter_emits_a_new_policy_set() -> None:
    """A new set is emitted once, and later checks use it."""
    async with Bench(rate_policy("a", fixed_window(1))) as bench:
        await bench.limiter.check("a", principal="ann")
        wider = PolicySet([rate_policy("a", fixed_window(5))], generation=2)
        bench.limiter.active_policies.replace(wider)
        assert bench.recorder.of(PoliciesLoaded)[-1].policies is wider
        assert (await bench.limiter.check("a", principal="ann")).allowed
