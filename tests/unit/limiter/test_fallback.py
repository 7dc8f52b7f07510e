"""Fallback: allow, deny or local limits while the store is unavailable."""

import asyncio
from typing import Self

import pytest

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.core.policy import Mode, OnStoreError, Policy
from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.events import CheckDecided
from fleetlimit.limiter.store_replies import HeartbeatReply
from support.limiter import (
    Bench,
    concurrency_policy,
    rate_policy,
    remaining,
    running,
    timeout_error,
)

ALLOW = rate_policy("allow", "1/minute", on_store_error=OnStoreError.ALLOW)
DENY = rate_policy("deny", "1/minute", on_store_error=OnStoreError.DENY)
LOCAL = rate_policy("local", "8/minute", on_store_error=OnStoreError.LOCAL)


class UnavailableStoreBench(Bench):
    """A bench whose store fails after it has reported a number of replicas.

    Args:
        policies: The active policies.
        replicas: Live replicas, as the store last reported.
    """

    def __init__(self, *policies: Policy, replicas: int = 1) -> None:
        super().__init__(*policies, failures=1_000)
        self.store.heartbeat_reply = HeartbeatReply(replicas, "first")

    async def __aenter__(self) -> Self:
        await self.limiter.start()
        self.store.down = timeout_error()
        return self


async def test_fallback_local_keeps_the_names_of_the_limits() -> None:
    """Clients see one name of a limit, whether the store or this replica decides."""
    policy = rate_policy("local", "80/minute", "900/hour", on_store_error=OnStoreError.LOCAL)
    async with UnavailableStoreBench(policy, replicas=3) as bench:
        bench.store.down = None
        shared = await bench.limiter.check("local", principal="ann")
        bench.store.down = timeout_error()
        local = await bench.limiter.check("local", principal="ann")
        assert local.source is Source.LOCAL
        assert [
            [limit.quota.name for limit in decision.results[0].limits]
            for decision in (shared, local)
        ] == [["tb60", "tb3600"]] * 2


async def test_commit_of_a_local_decision_corrects_its_status() -> None:
    """The local bucket is corrected, and so is the decision for the headers."""
    policy = rate_policy("local", "80/minute", on_store_error=OnStoreError.LOCAL)
    async with UnavailableStoreBench(policy, ALLOW, replicas=2) as bench:
        reservation = await bench.limiter.reserve("local", "allow", principal="ann", cost=1)
        await reservation.commit(11)
        assert remaining(reservation.decision.results[0].limits[0]) == 29
        assert reservation.decision.results[1].limits[0].status is None


async def test_fallback_allow_admits_every_request() -> None:
    """Every request is admitted, counted as failed open and not as spent."""
    async with UnavailableStoreBench(ALLOW) as bench:
        decisions = [await bench.limiter.check("allow", principal="ann") for _ in range(3)]
        assert {(each.outcome, each.source, each.spent) for each in decisions} == {
            (Outcome.FAIL_OPEN, Source.NONE, False)
        }
        assert [each.outcome for each in decisions[0].results] == [Outcome.FAIL_OPEN]
        assert decisions[0].results[0].limits[0].status is None
        assert [each.decision for each in bench.recorder.of(CheckDecided)] == decisions


async def test_fallback_deny_rejects_every_request() -> None:
    """Every request is rejected, with a second to wait."""
    async with UnavailableStoreBench(DENY) as bench:
        decision = await bench.limiter.check("deny", principal="ann")
        assert (decision.outcome, decision.source) == (Outcome.FAIL_CLOSED, Source.NONE)
        assert not decision.allowed
        assert decision.denied_by == ("deny",)
        assert decision.retry_after_us == 1_000_000


async def test_fallback_local_uses_a_local_bucket() -> None:
    """A bucket of this process decides."""
    async with UnavailableStoreBench(LOCAL) as bench:
        decisions = [await bench.limiter.check("local", principal="ann") for _ in range(9)]
        assert sum(each.allowed for each in decisions) == 8
        assert {each.source for each in decisions} == {Source.LOCAL}
        assert decisions[0].spent
        assert decisions[-1].outcome is Outcome.DENIED
        assert decisions[-1].retry_after_us > 0


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each != "concurrency"])
async def test_fallback_local_share_is_divided_by_the_replicas_litellm_2730(
    algorithm: Algorithm,
) -> None:
    """Four replicas without the store admit, all together, what one limit would."""
    policy = rate_policy("a", rate_quota("8/minute", algorithm=algorithm))
    async with UnavailableStoreBench(policy, replicas=4) as bench:
        decisions = [await bench.limiter.check("a", principal="ann") for _ in range(8)]
        assert sum(each.allowed for each in decisions) == 2
        assert decisions[0].results[0].limits[0].quota.burst == 2


async def test_fallback_local_denial_is_not_cached() -> None:
    """A local denial does not deny requests after the store's return."""
    async with UnavailableStoreBench(rate_policy("a", "4/minute"), replicas=4) as bench:
        for _ in range(3):
            await bench.limiter.check("a", principal="ann")
        bench.store.down = None
        back = await bench.limiter.check("a", principal="ann")
        assert (back.outcome, back.source) == (Outcome.ALLOWED, Source.STORE)


async def test_fallback_rejects_a_cost_above_the_local_share() -> None:
    """A cost that the local share can never hold is rejected as if the policy denied."""
    async with UnavailableStoreBench(LOCAL, ALLOW, replicas=4) as bench:
        decision = await bench.limiter.check("local", principal="ann", cost=3)
        assert (decision.outcome, decision.source) == (Outcome.FAIL_CLOSED, Source.NONE)
        assert decision.denied_by == ("local",)
        assert (await bench.limiter.check("local", principal="ann", cost=2)).allowed


async def test_fallback_deny_takes_precedence() -> None:
    """One policy with `deny` rejects the request, and nothing is spent locally."""
    async with UnavailableStoreBench(LOCAL, DENY, ALLOW) as bench:
        decision = await bench.limiter.check("local", "deny", "allow", principal="ann")
        assert decision.outcome is Outcome.FAIL_CLOSED
        outcomes = {each.policy: each.outcome for each in decision.results}
        assert outcomes == {"local": "allowed", "deny": "fail_closed", "allow": "allowed"}
        assert len(bench.local) == 0


async def test_fallback_local_decides_beside_allow() -> None:
    """The local bucket decides, and the decision has both results."""
    async with UnavailableStoreBench(LOCAL, ALLOW) as bench:
        decisions = [
            await bench.limiter.check("allow", "local", principal="ann", cost=1) for _ in range(9)
        ]
        first, last = decisions[0], decisions[-1]
        assert (first.outcome, first.source) == (Outcome.ALLOWED, Source.LOCAL)
        assert {each.policy: each.outcome for each in first.results} == {
            "local": "allowed",
            "allow": "fail_open",
        }
        assert (last.outcome, last.denied_by) == (Outcome.DENIED, ("local",))


async def test_fallback_local_policies_are_all_or_nothing() -> None:
    """A request that one local bucket denies spends nothing in another."""
    async with UnavailableStoreBench(LOCAL, rate_policy("tight", "1/minute")) as bench:
        for _ in range(3):
            await bench.limiter.check("local", "tight", principal="ann")
        left = await bench.limiter.check("local", principal="ann", cost=0)
        assert remaining(left.results[0].limits[0]) == 7


async def test_fallback_ignores_shadow_policies() -> None:
    """A policy in shadow mode is not evaluated without the store."""
    shadows = [
        rate_policy(f"s-{what}", "1/minute", mode=Mode.SHADOW, on_store_error=what)
        for what in OnStoreError
    ]
    async with UnavailableStoreBench(LOCAL, *shadows) as bench:
        names = [each.name for each in shadows]
        decision = await bench.limiter.check("local", *names, principal="ann")
        assert decision.outcome is Outcome.ALLOWED
        assert [each.policy for each in decision.results] == ["local"]
        alone = await bench.limiter.check(*names, principal="ann")
        assert (alone.outcome, alone.results) == (Outcome.FAIL_OPEN, ())
        assert alone.allowed


async def test_cached_denial_outlives_the_store() -> None:
    """A cached denial stays valid until its retry time when the store fails."""
    async with Bench(rate_policy("a", "1/minute", on_store_error=OnStoreError.ALLOW)) as bench:
        for _ in range(2):
            await bench.limiter.check("a", principal="ann")
        bench.store.down = timeout_error()
        still = await bench.limiter.check("a", principal="ann")
        assert (still.outcome, still.source) == (Outcome.DENIED, Source.CACHE)
        bench.clock.advance(1)
        assert (await bench.limiter.check("a", principal="ann")).outcome is Outcome.FAIL_OPEN


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each != "concurrency"])
async def test_fallback_refund_goes_to_the_local_store(algorithm: Algorithm) -> None:
    """Units that were spent locally are refunded locally, without a call of the shared store."""
    policy = rate_policy("a", rate_quota("4/minute", algorithm=algorithm))
    async with UnavailableStoreBench(policy) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=4)
        bench.store.calls.clear()
        await reservation.refund()
        assert bench.store.calls == []
        assert (await bench.limiter.check("a", principal="ann", cost=4)).allowed


async def test_fallback_refund_of_an_unspent_cost_does_nothing() -> None:
    """A request that failed open has nothing to refund, locally or in the store."""
    async with UnavailableStoreBench(ALLOW, LOCAL) as bench:
        await (await bench.limiter.reserve("allow", principal="ann")).refund()
        both = await bench.limiter.reserve("allow", "local", principal="ann")
        await both.for_policy("allow").refund()
        assert len(bench.local) == 1
        await both.refund()
        assert len(bench.local) == 0


async def test_fallback_concurrency_share_is_held_and_released() -> None:
    """Requests in flight have a share, too, and releasing one frees it."""
    async with UnavailableStoreBench(concurrency_policy("c", 4), replicas=2) as bench:
        held = [await bench.limiter.reserve("c", principal="ann") for _ in range(3)]
        assert [each.decision.allowed for each in held] == [True, True, False]
        await held[0].release()
        assert (await bench.limiter.reserve("c", principal="ann")).decision.allowed
        for each in held:
            await each.release()


@pytest.mark.parametrize("verb", ["commit", "refund", "release"])
async def test_local_correction_in_another_event_loop_is_an_error(verb: str) -> None:
    """The local share of another event loop is not changed, and its own one can correct it."""
    policies = (LOCAL, concurrency_policy("c", 2))
    async with UnavailableStoreBench(*policies) as bench:
        reservation = await bench.limiter.reserve("local", "c", principal="ann", cost=2)
        arguments = [1] if verb == "commit" else []

        async def correct() -> None:
            await getattr(reservation, verb)(*arguments)

        with pytest.raises(ConfigError, match="belongs to the event loop that started it"):
            await asyncio.to_thread(lambda: asyncio.run(correct()))
        await reservation.refund()
        again = await bench.limiter.reserve("local", "c", principal="ann", cost=2)
        assert again.decision.allowed
        left = [remaining(each.limits[0]) for each in again.decision.results]
        assert left == [6, 0]
        await again.refund()


async def test_reset_deletes_the_local_bucket_without_the_store() -> None:
    """A reset that fails in the store takes effect in this process."""
    async with UnavailableStoreBench(rate_policy("a", "1/minute")) as bench:
        await bench.limiter.check("a", principal="ann")
        with pytest.raises(Exception, match="no answer"):
            await bench.limiter.reset("a", principal="ann")
        assert (await bench.limiter.check("a", principal="ann")).allowed


async def test_check_falls_back_after_a_failed_call() -> None:
    """A request whose store call fails is decided locally at once."""
    async with Bench(LOCAL) as bench:
        hold = bench.store.hold("acquire", error=timeout_error())
        async with running(bench.limiter.check("local", principal="ann")) as check:
            await hold.wait()
            hold.released.set()
            assert (await check).source is Source.LOCAL
