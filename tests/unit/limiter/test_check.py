"""Checking, peeking and resetting: what is spent, what is not, and what is told."""

import pytest

from fleetlimit.core.decision import EXEMPT, Outcome, Source
from fleetlimit.core.policy import KeyKind, KeyPart, Mode, PolicySet
from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError, CostError
from fleetlimit.limiter.events import CheckDecided, PoliciesLoaded
from fleetlimit.limiter.limiter import Limiter, MonotonicClock
from fleetlimit.stores.memory import MemoryStore
from support.limiter import Bench, concurrency_policy, fixed_window, rate_policy, remaining


async def test_a_limit_lets_in_what_it_holds_and_refuses_the_next() -> None:
    """A limit of two lets in two requests and refuses the third, with the time to wait."""
    async with Bench(rate_policy("a", "2/minute")) as bench:
        decisions = [await bench.limiter.check("a", principal="ann") for _ in range(3)]
    assert [each.outcome for each in decisions] == ["allowed", "allowed", "denied"]
    assert [each.source for each in decisions] == [Source.STORE] * 3
    assert [each.spent for each in decisions] == [True, True, False]
    assert decisions[-1].retry_after_us == 30_000_000
    assert decisions[-1].denied_by == ("a",)


async def test_who_waits_as_long_as_told_is_let_in() -> None:
    """A client that waits exactly as long as it was told is let in; a moment earlier it is not."""
    async with Bench(rate_policy("a", "3/second")) as bench:
        for _ in range(3):
            await bench.limiter.check("a", principal="ann")
        refused = await bench.limiter.check("a", principal="ann")
        bench.clock.us += refused.retry_after_us - 1
        assert not (await bench.limiter.check("a", principal="ann")).allowed
        bench.clock.us += 1
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_two_callers_have_a_bucket_each_fastapi_limiter_80() -> None:
    """What one caller spends is not missing from another's bucket."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        for name in ("ann", "bob"):
            assert (await bench.limiter.check("a", principal=Principal(name))).allowed
        one, two = Subject("192.0.2.1"), Subject("192.0.2.2")
        for subject in (one, two):
            assert (await bench.limiter.check("a", subject=subject)).allowed
        assert not (await bench.limiter.check("a", subject=one)).allowed


async def test_many_limits_are_one_store_call() -> None:
    """A check over several policies with several limits is one call to the store."""
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


async def test_a_denied_request_spends_nothing_envoyproxy_ratelimit_427() -> None:
    """A request that one policy refuses spends nothing in the others, whatever their order."""
    async with Bench(rate_policy("roomy", "10/minute"), rate_policy("tight", "1/minute")) as bench:
        await bench.limiter.check("tight", principal="ann")
        for order in (("roomy", "tight"), ("tight", "roomy")):
            bench.clock.advance(1)
            refused = await bench.limiter.check(*order, principal="ann")
            assert refused.denied_by == ("tight",)
            assert not refused.spent
        assert bench.store.count("acquire") == 3
        assert await bench.remaining("roomy") == 10


async def test_a_denied_request_spends_nothing_in_its_own_policy_envoyproxy_ratelimit_440() -> None:
    """A policy whose second limit refuses leaves its first limit whole."""
    async with Bench(rate_policy("a", "5/second", "1/hour")) as bench:
        await bench.limiter.check("a", principal="ann")
        bench.clock.advance(1)
        await bench.limiter.check("a", principal="ann")
        assert await bench.remaining("a") == 5


async def test_policies_at_different_costs_are_all_or_nothing() -> None:
    """Each policy is asked its own cost, and all are spent or none is."""
    cheap, dear = rate_policy("cheap", "10/minute"), rate_policy("dear", "10/minute")
    subject = Subject(principal=Principal("ann"))
    async with Bench(cheap, dear) as bench:
        asks = [(cheap, 1), (dear, 6)]
        assert (await bench.limiter.admit(asks, subject)).decision.allowed
        refused = (await bench.limiter.admit(asks, subject)).decision
        assert refused.denied_by == ("dear",)
        assert [each.outcome for each in refused.results] == ["allowed", "denied"]
        assert (await bench.remaining("cheap"), await bench.remaining("dear")) == (9, 4)


async def test_the_longest_wait_counts() -> None:
    """A request that two policies refuse is told the longer of the two waits."""
    async with Bench(rate_policy("hour", "1/hour"), rate_policy("minute", "1/minute")) as bench:
        for name in ("hour", "minute"):
            await bench.limiter.check(name, principal="ann")
        refused = await bench.limiter.check("hour", "minute", principal="ann")
        assert refused.denied_by == ("hour", "minute")
        assert refused.retry_after_us == 3_600_000_000


async def test_a_tier_has_its_own_limits_slowapi_13() -> None:
    """A principal is held by its tier's limits, and by the policy's own where it has none."""
    policy = rate_policy("a", "1/minute", tiers={"pro": (rate_quota("9/minute"),)})
    async with Bench(policy) as bench:
        pro = await bench.limiter.check("a", principal=Principal("ann", "pro"))
        free = await bench.limiter.check("a", principal=Principal("bob", "free"))
        assert [remaining(each.results[0].limits[0]) for each in (pro, free)] == [8, 0]


async def test_the_same_policy_asked_twice_counts_once() -> None:
    """A policy that is named twice in one check is spent once, at the first cost asked."""
    policy = rate_policy("a", "10/minute")
    async with Bench(policy) as bench:
        decision = await bench.limiter.check("a", policy, "a", principal="ann")
        assert len(decision.results) == 1
        asks = [(policy, 2), (policy, 5)]
        await bench.limiter.admit(asks, Subject(principal=Principal("ann")))
        assert await bench.remaining("a") == 7


@pytest.mark.parametrize("cost", [-1, 6])
async def test_an_impossible_cost_is_an_error_before_anything_is_spent(cost: int) -> None:
    """A negative cost, and one that no limit could hold, raise before the store is asked."""
    async with Bench(rate_policy("wide", "100/minute"), rate_policy("a", "5/minute")) as bench:
        with pytest.raises(CostError):
            await bench.limiter.check("wide", "a", principal="ann", cost=cost)
        with pytest.raises(CostError):
            await bench.limiter.peek("wide", "a", principal="ann", cost=cost)
        assert bench.store.calls == []
        assert bench.recorder.of(CheckDecided) == []


async def test_a_cost_of_nothing_spends_nothing() -> None:
    """A cost of 0 is let in and leaves the bucket full."""
    async with Bench(rate_policy("a", "5/minute")) as bench:
        decision = await bench.limiter.check("a", principal="ann", cost=0)
        assert decision.allowed
        assert remaining(decision.results[0].limits[0]) == 5
        assert len(bench.store.memory) == 0


async def test_no_policy_means_exempt() -> None:
    """A request that no policy holds is exempt: decided without the store, and counted."""
    async with Bench(rate_policy("a", "5/minute", mode=Mode.OFF)) as bench:
        assert await bench.limiter.check("a", principal="ann") == EXEMPT
        async with await bench.limiter.reserve() as reservation:
            assert reservation.decision == EXEMPT
        assert await bench.limiter.peek("a", principal="ann") == EXEMPT
        assert bench.store.calls == []
        outcomes = [each.decision.outcome for each in bench.recorder.of(CheckDecided)]
        assert outcomes == [Outcome.EXEMPT] * 2


async def test_an_unknown_policy_is_an_error_that_names_the_known_ones() -> None:
    """Asking for a policy that is not in force raises, and says which ones are."""
    async with Bench(rate_policy("a", "5/minute"), rate_policy("b", "5/minute")) as bench:
        with pytest.raises(ConfigError, match=r"no policy 'c' in code: a, b$"):
            await bench.limiter.check("c")
        bench.limiter.active_policies.replace(PolicySet(source="empty.yaml"))
        with pytest.raises(ConfigError, match=r"in empty\.yaml: none$"):
            await bench.limiter.check("a")


async def test_a_peek_spends_nothing_and_tells_nobody() -> None:
    """A peek says what a check would say, and leaves buckets and counters alone."""
    async with Bench(rate_policy("a", "2/minute")) as bench:
        looks = [await bench.limiter.peek("a", principal="ann") for _ in range(5)]
        assert {each.outcome for each in looks} == {Outcome.ALLOWED}
        assert not any(each.spent for each in looks)
        await bench.limiter.check("a", principal="ann", cost=2)
        refused = await bench.limiter.peek("a", principal="ann")
        assert (refused.outcome, refused.retry_after_us) == (Outcome.DENIED, 30_000_000)
        assert len(bench.recorder.of(CheckDecided)) == 1


async def test_a_reset_gives_everything_back() -> None:
    """A reset makes a caller's buckets full, in all tiers, and leaves other callers alone."""
    policy = rate_policy("a", "1/minute", tiers={"pro": (rate_quota("2/hour"),)})
    async with Bench(policy) as bench:
        for who in (Principal("ann"), Principal("ann", "pro"), Principal("bob")):
            await bench.limiter.check("a", principal=who)
        assert await bench.limiter.reset("a", principal="ann") == 2
        assert await bench.limiter.reset("a", principal="ann") == 0
        assert (await bench.limiter.check("a", principal="ann")).allowed
        assert not (await bench.limiter.check("a", principal="bob")).allowed


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each != "concurrency"])
async def test_no_more_than_the_limit_passes_at_once(algorithm: Algorithm) -> None:
    """At one instant every algorithm lets in its limit, and a reset opens it again."""
    async with Bench(rate_policy("a", rate_quota("4/minute", algorithm=algorithm))) as bench:
        for _ in range(2):
            allowed = [(await bench.limiter.check("a", principal="x")).allowed for _ in range(6)]
            assert sum(allowed) == 4
            await bench.limiter.reset("a", principal="x")


async def test_a_decided_event_says_what_the_decision_says() -> None:
    """Every check is told once: the decision that was returned, who asked, where and how long."""
    everybody = (KeyPart(KeyKind.GLOBAL),)
    async with Bench(rate_policy("a", "1/minute", key=everybody)) as bench:
        ann = Subject("192.0.2.1", Principal("ann", "pro"), "GET /x")
        nobody = Subject("192.0.2.9", route="GET /y")
        hold = bench.store.hold("acquire", after_work=True)
        hold.released.set()
        decisions = [await bench.limiter.check("a", subject=each) for each in (ann, nobody)]
        told = bench.recorder.of(CheckDecided)
        assert [each.decision for each in told] == decisions
        assert [each.decision.outcome for each in told] == ["allowed", "denied"]
        assert [(each.anonymous, each.tier, each.route) for each in told] == [
            (False, "pro", "GET /x"),
            (True, "", "GET /y"),
        ]
        hashes = {each.subject_hash for each in told}
        assert hashes == {bench.limiter.subject_hash(each) for each in (ann, nobody)}
        assert not {"ann", "192.0.2.9"} & hashes
        assert [each.seconds for each in told] == [0, 0]


async def test_an_event_says_how_long_the_decision_took() -> None:
    """The seconds of an event are those between the question and the answer."""

    class Ticking:
        us = 0

        def monotonic_us(self) -> int:
            self.us += 250_000
            return self.us

    bench = Bench()
    limiter = Limiter(bench.store, local=bench.local, clock=Ticking(), observers=[bench.recorder])
    await limiter.check(rate_policy("a", "1/minute"), principal="ann")
    assert [each.seconds for each in bench.recorder.of(CheckDecided)] == [0.25]


async def test_a_limiter_needs_no_more_than_stores() -> None:
    """A limiter made of a store alone decides by the process's own clock."""
    limiter = Limiter(MemoryStore(), local=MemoryStore())
    assert (await limiter.check(rate_policy("a", "1/hour"), principal="ann")).allowed
    assert not (await limiter.check(rate_policy("a", "1/hour"), principal="ann")).allowed
    await limiter.aclose()


async def test_the_process_clock_never_goes_back() -> None:
    """The process's own clock counts microseconds forwards."""
    clock = MonotonicClock()
    readings = [clock.monotonic_us() for _ in range(100)]
    assert readings == sorted(readings)


async def test_a_new_set_of_policies_is_told() -> None:
    """A set that takes effect is told once, and later checks follow it."""
    async with Bench(rate_policy("a", fixed_window(1))) as bench:
        await bench.limiter.check("a", principal="ann")
        wider = PolicySet([rate_policy("a", fixed_window(5))], generation=2)
        bench.limiter.active_policies.replace(wider)
        assert bench.recorder.of(PoliciesLoaded)[-1].policies is wider
        assert (await bench.limiter.check("a", principal="ann")).allowed
