"""Modes: shadow, off and staged enforcement."""

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.core.policy import Mode
from support.limiter import Bench, concurrency_policy, rate_policy


async def test_shadow_policy_counts_and_never_denies() -> None:
    """The result is `shadow_denied`, and the request is admitted."""
    async with Bench(rate_policy("s", "1/minute", mode=Mode.SHADOW)) as bench:
        decisions = [await bench.limiter.check("s", principal="ann") for _ in range(3)]
    assert [each.outcome for each in decisions] == ["allowed", "shadow_denied", "shadow_denied"]
    assert all(each.allowed for each in decisions)
    assert decisions[-1].denied_by == ()
    assert decisions[-1].retry_after_us == 0
    assert decisions[-1].source is Source.STORE


async def test_exhausted_shadow_policy_does_not_affect_others() -> None:
    """The enforced policies are spent if a shadow policy has no units."""
    policies = rate_policy("s", "1/minute", mode=Mode.SHADOW), rate_policy("e", "5/minute")
    async with Bench(*policies) as bench:
        for _ in range(3):
            decision = await bench.limiter.check("s", "e", principal="ann")
        assert decision.outcome is Outcome.SHADOW_DENIED
        assert [each.outcome for each in decision.results] == ["shadow_denied", "allowed"]
        assert [each.mode for each in decision.results] == [Mode.SHADOW, Mode.ENFORCE]
        assert await bench.remaining("e") == 2


async def test_denied_request_is_not_counted_in_shadow() -> None:
    """A request that an enforced policy denies spends nothing from a shadow policy."""
    policies = rate_policy("s", "5/minute", mode=Mode.SHADOW), rate_policy("e", "1/minute")
    async with Bench(*policies) as bench:
        await bench.limiter.check("s", "e", principal="ann")
        bench.clock.advance(2)
        denied = await bench.limiter.check("s", "e", principal="ann")
        assert denied.outcome is Outcome.DENIED
        assert denied.denied_by == ("e",)
        assert [each.outcome for each in denied.results] == ["allowed", "denied"]
        bench.clock.advance(10)
        assert await bench.remaining("s") == 5


async def test_shadow_policies_count_separately() -> None:
    """An exhausted shadow policy does not affect another."""
    policies = [
        rate_policy(name, f"{limit}/minute", mode=Mode.SHADOW)
        for name, limit in (("a", 1), ("b", 3))
    ]
    async with Bench(*policies) as bench:
        for _ in range(3):
            decision = await bench.limiter.check("a", "b", principal="ann")
        assert [each.outcome for each in decision.results] == ["shadow_denied", "allowed"]
        assert await bench.remaining("b") == 0


async def test_refund_does_not_credit_an_exhausted_shadow_policy() -> None:
    """A shadow policy that had no units to spend gets none back."""
    policies = rate_policy("s", "1/minute", mode=Mode.SHADOW), rate_policy("e", "5/minute")
    async with Bench(*policies) as bench:
        await bench.limiter.check("s", "e", principal="ann")
        reservation = await bench.limiter.reserve("s", "e", principal="ann")
        await reservation.refund()
        assert (await bench.remaining("s"), await bench.remaining("e")) == (0, 4)


async def test_shadow_policy_is_all_or_nothing() -> None:
    """All limits of a shadow policy are spent or none is, and the refund agrees."""
    async with Bench(rate_policy("s", "9/second", "1/hour", mode=Mode.SHADOW)) as bench:
        await bench.limiter.check("s", principal="ann")
        bench.clock.advance(1)
        reservation = await bench.limiter.reserve("s", principal="ann")
        await reservation.refund()
        assert bench.store.adjustments == []
        assert await bench.remaining("s") == 9


async def test_shadow_concurrency_holds_only_leases_that_fit() -> None:
    """A lease in shadow mode is held while it fits; above the limit there is none to release."""
    async with Bench(concurrency_policy("s", 1, mode=Mode.SHADOW)) as bench:
        first = await bench.limiter.reserve("s", principal="ann")
        second = await bench.limiter.reserve("s", principal="ann")
        assert (len(first.leases), len(second.leases)) == (1, 0)
        await first.release()
        assert await bench.remaining("s") == 1


async def test_enforce_percent_is_stable_and_approximate() -> None:
    """At 30 percent about 30 of 100 callers are denied, and always the same ones."""
    async with Bench(rate_policy("a", "1/minute", enforce_percent=30)) as bench:
        callers = [f"caller-{number}" for number in range(600)]
        denied = []
        for _ in range(3):
            decisions = {name: await bench.limiter.check("a", principal=name) for name in callers}
            denied.append({name for name, each in decisions.items() if not each.allowed})
        assert denied[0] == set()
        assert denied[1] == denied[2]
        assert 0.24 <= len(denied[1]) / len(callers) <= 0.36
        modes = {name: each.results[0].mode for name, each in decisions.items()}
        assert {name for name, mode in modes.items() if mode is Mode.ENFORCE} == denied[1]


async def test_enforce_percent_grows_monotonically() -> None:
    """A caller that is enforced at one percentage is enforced at every higher one."""
    callers = [f"caller-{number}" for number in range(100)]
    before: set[str] = set()
    async with Bench() as bench:
        for percent in (0, 10, 50, 100):
            policy = rate_policy("a", "1/minute", enforce_percent=percent)
            looks = {name: await bench.limiter.peek(policy, principal=name) for name in callers}
            now = {name for name, each in looks.items() if each.results[0].mode is Mode.ENFORCE}
            assert before <= now
            before = now
    assert before == set(callers)


async def test_enforce_percent_does_not_enforce_a_shadow_policy() -> None:
    """A percentage never turns shadow mode into enforcement."""
    policy = rate_policy("a", "1/minute", mode=Mode.SHADOW, enforce_percent=50)
    async with Bench(policy) as bench:
        for number in range(20):
            decision = await bench.limiter.peek("a", principal=str(number))
            assert decision.results[0].mode is Mode.SHADOW


async def test_shadow_policy_admits_an_impossible_cost() -> None:
    """A shadow policy denies nothing, not even a cost that its limits can never hold."""
    policies = (
        rate_policy("shadow", "2/minute", mode=Mode.SHADOW),
        rate_policy("enforced", "10/minute"),
    )
    async with Bench(*policies) as bench:
        both = await bench.limiter.check("enforced", "shadow", principal="ann", cost=5)
        alone = await bench.limiter.check("shadow", principal="ann", cost=5)
        seen = await bench.limiter.peek("shadow", principal="ann", cost=5)
    assert both.outcome is alone.outcome is seen.outcome is Outcome.SHADOW_DENIED
    assert [each.outcome for each in both.results] == [Outcome.ALLOWED, Outcome.SHADOW_DENIED]
    assert both.spent
    assert not alone.spent
