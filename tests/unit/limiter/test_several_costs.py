"""Several costs in one reservation: spent together or not at all, and corrected by policy."""

from typing import Any

import pytest

from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.core.usage import Usage
from fleetlimit.errors import ConfigError, CostError
from fleetlimit.limiter.limit_switch import LIMIT_SWITCH
from fleetlimit.limiter.plan import PolicyCost
from support.limiter import Bench, concurrency_policy, rate_policy


def bench() -> Bench:
    """Return a limiter of requests and tokens."""
    return Bench(
        rate_policy("requests", "10/minute"),
        rate_policy("tokens", "1000/minute"),
        rate_policy("off", "1/minute", mode="off"),
        concurrency_policy("slots", 4),
    )


async def test_check_spends_each_policy_at_its_own_cost() -> None:
    """One check spends one request and 500 tokens."""
    async with bench() as limits:
        decision = await limits.limiter.check(cost={"requests": 1, "tokens": 500}, principal="ann")
        assert decision.allowed
        assert [each.policy for each in decision.results] == ["requests", "tokens"]
        assert await limits.remaining("requests") == 9
        assert await limits.remaining("tokens") == 500


async def test_check_spends_nothing_if_one_cost_does_not_fit() -> None:
    """A cost that does not fit under one policy spends nothing under another."""
    async with bench() as limits:
        await limits.limiter.check("tokens", principal="ann", cost=900)
        decision = await limits.limiter.check(
            "requests", "tokens", cost={"tokens": 200, "requests": 1}, principal="ann"
        )
        assert decision.denied_by == ("tokens",)
        assert await limits.remaining("requests") == 10
        assert await limits.remaining("tokens") == 100


async def test_commit_corrects_the_named_policies_alone() -> None:
    """The tokens are corrected, later the request is refunded; each policy once."""
    async with bench() as limits:
        reservation = await limits.limiter.reserve(
            cost={"requests": 2, "tokens": 500}, principal="ann"
        )
        await reservation.commit({"tokens": 320})
        await reservation.commit({"tokens": 0})
        assert await limits.remaining("tokens") == 680
        assert await limits.remaining("requests") == 8
        await reservation.commit({"requests": 5})
        assert await limits.remaining("requests") == 5
        await reservation.refund()
        assert await limits.remaining("requests") == 5


async def test_commit_spends_more_than_was_reserved() -> None:
    """An answer longer than the estimate is spent as well."""
    async with bench() as limits:
        reservation = await limits.limiter.reserve(
            cost={"requests": 1, "tokens": 100}, principal="ann"
        )
        await reservation.commit({"tokens": 900, "requests": 1})
        assert await limits.remaining("tokens") == 100
        assert await limits.remaining("requests") == 9


async def test_commit_by_policy_keeps_the_leases() -> None:
    """A lease is held until the request ends, whatever its tokens are."""
    async with bench() as limits:
        reservation = await limits.limiter.reserve(
            cost={"slots": 1, "tokens": 100}, principal="ann"
        )
        async with reservation:
            await reservation.commit({"tokens": 10, "slots": 0})
            assert await limits.remaining("slots") == 3
            assert await limits.remaining("tokens") == 990
        assert await limits.remaining("slots") == 4


async def test_commit_rejects_a_policy_that_the_reservation_does_not_have() -> None:
    """A misspelt name corrects nothing, not even another policy."""
    async with bench() as limits:
        reservation = await limits.limiter.reserve(
            cost={"requests": 1, "tokens": 100}, principal="ann"
        )
        with pytest.raises(ConfigError, match="no policy 'token': write one of requests, tokens"):
            await reservation.commit({"token": 3, "requests": 0})
        part = reservation.for_policy("tokens")
        with pytest.raises(ConfigError, match="no policy 'requests': write one of tokens"):
            await part.commit({"requests": 0})
        await part.commit({"tokens": 3})
        assert await limits.remaining("tokens") == 997
        assert await limits.remaining("requests") == 9


async def test_commit_accepts_a_policy_that_is_off() -> None:
    """To switch a policy off does not make the code fail that corrects its cost."""
    async with bench() as limits:
        reservation = await limits.limiter.reserve(cost={"off": 7, "tokens": 9}, principal="ann")
        await reservation.commit({"off": 3, "tokens": 1})
        assert await limits.remaining("tokens") == 999


async def test_commit_accepts_any_policy_while_all_limits_are_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a test without limits, the code of the app runs."""
    monkeypatch.setattr(LIMIT_SWITCH, "is_off", True)
    async with bench() as limits:
        reservation = await limits.limiter.reserve(cost={"tokens": 9}, principal="ann")
        await reservation.commit({"tokens": 1})
        assert reservation.decision.allowed


@pytest.mark.parametrize("actual", [-1, 1.5, "3", None])
async def test_commit_rejects_costs_that_are_none(actual: Any) -> None:
    """A wrong cost under one policy corrects no other."""
    async with bench() as limits:
        reservation = await limits.limiter.reserve(
            cost={"requests": 1, "tokens": 100}, principal="ann"
        )
        with pytest.raises(CostError):
            await reservation.commit({"requests": 0, "tokens": actual})
        assert await limits.remaining("requests") == 9


@pytest.mark.parametrize(
    ("policies", "cost", "message"),
    [
        ((), {}, "cost names no policy"),
        (("requests",), {"tokens": 1, "requests": 1}, "'tokens', which is not checked"),
        (("requests", "tokens"), {"requests": 1}, "no entry for policy tokens: add 'tokens': 1"),
        (({"requests": 1},), None, r"write cost=\{\.\.\.\}"),
        ((), {"request": 1}, "request"),
    ],
)
async def test_costs_by_policy_name_the_policies_that_are_checked(
    policies: Any, cost: Any, message: str
) -> None:
    """Names that do not fit are an error with what to write."""
    async with bench() as limits:
        for verb in (limits.limiter.check, limits.limiter.reserve, limits.limiter.peek):
            with pytest.raises(ConfigError, match=message):
                await verb(*policies, cost=cost, principal="ann")
        assert await limits.remaining("requests") == 10


async def test_a_cost_that_no_bucket_holds_spends_nothing() -> None:
    """A cost above a limit is an error, and the other policies keep their units."""
    async with bench() as limits:
        wrong: Any
        for wrong in (1001, -1, None, "3"):
            with pytest.raises(CostError):
                await limits.limiter.check(cost={"requests": 1, "tokens": wrong}, principal="ann")
        assert await limits.remaining("requests") == 10


async def test_estimate_is_at_most_what_the_limits_hold() -> None:
    """An estimate above the smaller limit spends all of that one, and a known cost is an error."""
    policy = rate_policy("tokens", "1000/minute", rate_quota("300/hour", cost=3))
    async with Bench(policy) as limits:
        estimate = PolicyCost(policy, 5000, is_estimate=True)
        reservation = await limits.limiter.admit([estimate], Subject(principal=Principal("ann")))
        assert reservation.decision.allowed
        assert reservation.spent_cost("tokens") == 100
        assert reservation.spent_cost("others") == 0
        await reservation.commit({"tokens": 40})
        assert reservation.spent_cost("tokens") == 0
        assert await limits.remaining("tokens") == 960
        known = PolicyCost(policy, 5000)
        with pytest.raises(CostError):
            await limits.limiter.admit([known], Subject(principal=Principal("ann")))


async def test_check_needs_reserve_for_a_policy_that_counts_by_status() -> None:
    """`check` returns nothing that could refund the cost of a success."""
    async with Bench(Policy("login", "5/minute", count="failure")) as limits:
        with pytest.raises(ConfigError, match="counts by the status"):
            await limits.limiter.check("login", principal="ann")
        reservation = await limits.limiter.reserve("login", principal="ann")
        assert await limits.remaining("login") == 4
        await reservation.refund()
        assert await limits.remaining("login") == 5


async def test_a_policy_of_usage_needs_an_estimate_in_code() -> None:
    """Code that checks by itself states the tokens; a cost of 1 would be no limit."""
    policy = Policy("tokens", "1000/minute", cost=Usage("openai"))
    async with Bench(policy) as limits:
        with pytest.raises(ConfigError, match="reserve an estimate with cost="):
            await limits.limiter.reserve("tokens", principal="ann")
        reservation = await limits.limiter.reserve("tokens", principal="ann", cost=500)
        await reservation.commit(20)
        assert await limits.remaining("tokens") == 980
