"""Shadow, off and staged enforcement: what counts without refusing."""

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.core.policy import Mode
from support.limiter import Bench, concurrency_policy, rate_policy


async def test_a_shadow_policy_counts_and_never_refuses() -> None:
    """A policy in shadow says that it would have refused, and the request is let in."""
    async with Bench(rate_policy("s", "1/minute", mode=Mode.SHADOW)) as bench:
        decisions = [await bench.limiter.check("s", principal="ann") for _ in range(3)]
    assert [each.outcome for each in decisions] == ["allowed", "shadow_denied", "shadow_denied"]
    assert all(each.allowed for each in decisions)
    assert decisions[-1].denied_by == ()
    assert decisions[-1].retry_after_us == 0
    assert decisions[-1].source is Source.STORE


async def test_an_exhausted_shadow_policy_does_not_keep_the_others_from_counting() -> None:
    """Where a policy in shadow has no room, the enforced policies are spent all the same."""
    policies = rate_policy("s", "1/minute", mode=Mode.SHADOW), rate_policy("e", "5/minute")
    async with Bench(*policies) as bench:
        for _ in range(3):
            decision = await bench.limiter.check("s", "e", principal="ann")
        assert decision.outcome is Outcome.SHADOW_DENIED
        assert [each.outcome for each in decision.results] == ["shadow_denied", "allowed"]
        assert [each.mode for each in decision.results] == [Mode.SHADOW, Mode.ENFORCE]
        assert await bench.remaining("e") == 2


async def test_a_refused_request_is_not_counted_in_shadow() -> None:
    """What an enforced policy refuses spends nothing of a policy in shadow."""
    policies = rate_policy("s", "5/minute", mode=Mode.SHADOW), rate_policy("e", "1/minute")
    async with Bench(*policies) as bench:
        await bench.limiter.check("s", "e", principal="ann")
        bench.clock.advance(2)
        refused = await bench.limiter.check("s", "e", principal="ann")
        assert refused.outcome is Outcome.DENIED
        assert refused.denied_by == ("e",)
        assert [each.outcome for each in refused.results] == ["allowed", "denied"]
        bench.clock.advance(10)
        assert await bench.remaining("s") == 5


async def test_two_shadow_policies_count_apart() -> None:
    """One policy in shadow that is exhausted does not keep another from counting."""
    policies = [
        rate_policy(name, f"{limit}/minute", mode=Mode.SHADOW)
        for name, limit in (("a", 1), ("b", 3))
    ]
    async with Bench(*policies) as bench:
        for _ in range(3):
            decision = await bench.limiter.check("a", "b", principal="ann")
        assert [each.outcome for each in decision.results] == ["shadow_denied", "allowed"]
        assert await bench.remaining("b") == 0


async def test_a_refund_gives_back_only_what_was_spent_in_shadow() -> None:
    """A refund returns nothing to a policy in shadow that had no room to spend from."""
    policies = rate_policy("s", "1/minute", mode=Mode.SHADOW), rate_policy("e", "5/minute")
    async with Bench(*policies) as bench:
        await bench.limiter.check("s", "e", principal="ann")
        reservation = await bench.limiter.reserve("s", "e", principal="ann")
        await reservation.refund()
        assert (await bench.remaining("s"), await bench.remaining("e")) == (0, 4)


async def test_a_shadow_policy_with_a_full_and_an_empty_limit_spends_neither() -> None:
    """A policy in shadow is all or nothing in itself, and so is its refund."""
    async with Bench(rate_policy("s", "9/second", "1/hour", mode=Mode.SHADOW)) as bench:
        await bench.limiter.check("s", principal="ann")
        bench.clock.advance(1)
        reservation = await bench.limiter.reserve("s", principal="ann")
        await reservation.refund()
        assert bench.store.adjustments == []
        assert await bench.remaining("s") == 9


async def test_concurrency_in_shadow_holds_no_lease_that_did_not_fit() -> None:
    """A lease in shadow is held while it fits; beyond the limit there is none to give back."""
    async with Bench(concurrency_policy("s", 1, mode=Mode.SHADOW)) as bench:
        first = await bench.limiter.reserve("s", principal="ann")
        second = await bench.limiter.reserve("s", principal="ann")
        assert (len(first.leases), len(second.leases)) == (1, 0)
        await first.release()
        assert await bench.remaining("s") == 1


async def test_staged_enforcement_is_stable_and_about_the_share_asked_for() -> None:
    """At 30 percent about 30 in 100 callers are refused, and always the same ones."""
    async with Bench(rate_policy("a", "1/minute", enforce_percent=30)) as bench:
        callers = [f"caller-{number}" for number in range(600)]
        refused = []
        for _ in range(3):
            decisions = {who: await bench.limiter.check("a", principal=who) for who in callers}
            refused.append({who for who, each in decisions.items() if not each.allowed})
        assert refused[0] == set()
        assert refused[1] == refused[2]
        assert 0.24 <= len(refused[1]) / len(callers) <= 0.36
        modes = {who: each.results[0].mode for who, each in decisions.items()}
        assert {who for who, mode in modes.items() if mode is Mode.ENFORCE} == refused[1]


async def test_a_growing_percentage_never_lets_go_of_a_caller() -> None:
    """Whoever is enforced at a percentage is enforced at every higher one."""
    callers = [f"caller-{number}" for number in range(100)]
    before: set[str] = set()
    async with Bench() as bench:
        for percent in (0, 10, 50, 100):
            policy = rate_policy("a", "1/minute", enforce_percent=percent)
            looks = {who: await bench.limiter.peek(policy, principal=who) for who in callers}
            now = {who for who, each in looks.items() if each.results[0].mode is Mode.ENFORCE}
            assert before <= now
            before = now
    assert before == set(callers)


async def test_a_shadow_policy_stays_in_shadow_at_any_percentage() -> None:
    """A percentage never turns shadow into enforcement."""
    policy = rate_policy("a", "1/minute", mode=Mode.SHADOW, enforce_percent=50)
    async with Bench(policy) as bench:
        for number in range(20):
            decision = await bench.limiter.peek("a", principal=str(number))
            assert decision.results[0].mode is Mode.SHADOW


async def test_a_cost_that_shadow_could_never_hold_is_let_in_and_counted() -> None:
    """A policy in shadow refuses nothing, not even what its limits could never hold."""
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
