"""Circuit breakers of a Cluster's servers, and checks over several of them."""

import asyncio
from collections.abc import Sequence

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import Outcome, Source
from fleetlimit.core.policy import Mode, OnStoreError
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import BucketCorrupt, ConfigError, StoreError, StoreUnavailable
from fleetlimit.limiter.events import (
    BreakerChanged,
    BreakerState,
    CheckCancelled,
    CheckDecided,
    StoreFailed,
)
from fleetlimit.limiter.ports import ONE_NODE, KeysFailed
from fleetlimit.limiter.store_replies import AcquireResult
from support.cluster_nodes import ClusterBench
from support.limiter import (
    concurrency_policy,
    rate_policy,
    remaining,
    running,
    timeout_error,
)

SUBJECT = Subject(principal=Principal("ann"))


A, B = rate_policy("a", "10/hour"), rate_policy("b", "10/hour")


async def test_each_server_has_a_breaker() -> None:
    """The failures of one server open its breaker; calls of the other ones go on."""
    async with ClusterBench(A, B) as bench:
        bench.store.lost["b"] = timeout_error()
        hold = bench.store.hold("open")
        for _ in range(5):
            assert (await bench.limiter.check("b", principal="ann")).source is Source.LOCAL
            assert (await bench.limiter.check("a", principal="ann")).source is Source.STORE
        await hold.wait()
        assert bench.limiter.open_nodes == ["b"]
        assert bench.limiter.breaker_state is BreakerState.OPEN
        assert bench.recorder.of(BreakerChanged) == [BreakerChanged(BreakerState.OPEN, "b")]
        assert {each.node for each in bench.recorder.of(StoreFailed)} == {"b"}
        bench.store.lost.clear()
        hold.released.set()
        await bench.recorder.wait_for(BreakerChanged(BreakerState.CLOSED, "b"))
        assert bench.limiter.open_nodes == []
        assert (await bench.limiter.check("b", principal="ann")).source is Source.STORE
        assert bench.store.opened == ["b"]
        assert bench.store.count("heartbeat") == 0


async def test_limiter_opens_every_server() -> None:
    """A server that is lost at start fails by itself."""
    async with ClusterBench(A, B) as bench:
        bench.store.lost["b"] = timeout_error()
        await bench.limiter.start()
        assert bench.store.opened[0] == ONE_NODE
        assert sorted(bench.store.opened[1:]) == ["a", "b", "replicas"]
        assert [(each.operation, each.node) for each in bench.recorder.of(StoreFailed)] == [
            ("open", "b")
        ]


async def test_probe_of_the_membership_server_sends_a_heartbeat() -> None:
    """The server of the membership is used again when it has accepted a heartbeat."""
    async with ClusterBench(A) as bench:
        bench.store.errors["heartbeat"] = timeout_error()
        for _ in range(3):
            await bench.limiter.membership.heartbeat()
        assert bench.limiter.open_nodes == ["replicas"]
        bench.store.errors.clear()
        await bench.recorder.wait_for(BreakerChanged(BreakerState.CLOSED, "replicas"))
        assert bench.store.count("heartbeat") == 4


async def test_breakers_of_removed_servers_are_dropped() -> None:
    """A closed breaker whose server left the Cluster is dropped when another server appears."""
    async with ClusterBench(A, B) as bench:
        for index in range(5):
            bench.store.servers.moved["a"] = f"a{index}"
            bench.store.servers.nodes = {f"a{index}", "b"}
            await bench.limiter.check("a", principal="ann")
        assert set(bench.limiter._breakers._breakers) == {"a4"}


@pytest.mark.parametrize("opened", [False, True])
async def test_policies_of_lost_servers_apply_on_store_error(*, opened: bool) -> None:
    """The store decides the policies of living servers in the same check."""
    policies = (
        A,
        B,
        rate_policy("c", "10/hour", on_store_error=OnStoreError.ALLOW),
        rate_policy("d", "10/hour", mode=Mode.SHADOW),
    )
    async with ClusterBench(*policies) as bench:
        hold = bench.store.hold("open")
        for node in ("b", "c", "d"):
            bench.store.lost[node] = timeout_error()
            for _ in range(3 * opened):
                await bench.limiter.check(node, principal="ann")
        reservation = await bench.limiter.reserve("a", "b", "c", "d", principal="ann", cost=4)
        decision = reservation.decision
        assert (decision.outcome, decision.source) == (Outcome.ALLOWED, Source.LOCAL)
        assert decision.spent
        assert [(each.policy, each.outcome) for each in decision.results] == [
            ("a", Outcome.ALLOWED),
            ("b", Outcome.ALLOWED),
            ("c", Outcome.FAIL_OPEN),
        ]
        await reservation.for_policy("a").commit(1)
        await reservation.for_policy("b").commit(2)
        await reservation.refund()
        assert await bench.remaining("a") == 9
        local = (await bench.limiter.check("b", principal="ann")).results[0].limits[0]
        assert remaining(local) == 7 - 3 * opened
        hold.released.set()


async def test_lost_shadow_policy_leaves_the_decision_to_the_store() -> None:
    """A policy in shadow mode is not evaluated without its server, and rejects nothing."""
    async with ClusterBench(A, rate_policy("b", "10/hour", mode=Mode.SHADOW)) as bench:
        bench.store.lost["b"] = timeout_error()
        decision = await bench.limiter.check("a", "b", principal="ann")
        assert (decision.outcome, decision.source) == (Outcome.ALLOWED, Source.STORE)


async def test_rejection_of_a_lost_server_spends_nothing() -> None:
    """A policy with `on_store_error: deny` rejects before the other servers are called."""
    closed = rate_policy("b", "10/hour", on_store_error=OnStoreError.DENY)
    async with ClusterBench(A, closed) as bench:
        bench.store.lost["b"] = timeout_error()
        decision = await bench.limiter.check("a", "b", principal="ann")
        assert decision.outcome is Outcome.FAIL_CLOSED
        assert sorted((each.policy, each.outcome) for each in decision.results) == [
            ("a", Outcome.ALLOWED),
            ("b", Outcome.FAIL_CLOSED),
        ]
        assert await bench.remaining("a") == 10


async def test_denial_of_a_living_server_refunds_the_local_share() -> None:
    """Nothing stays spent in the process when the store denies."""
    async with ClusterBench(A, B) as bench:
        await bench.limiter.check("a", principal="ann", cost=10)
        bench.store.lost["b"] = timeout_error()
        for _ in range(12):
            bench.clock.advance(2)
            decision = await bench.limiter.check("a", "b", principal="ann")
            assert (decision.denied_by, decision.source) == (("a",), Source.STORE)
            assert [remaining(each.limits[0]) for each in decision.results] == [0, 10]
        local = (await bench.limiter.check("b", principal="ann")).results[0].limits[0]
        assert remaining(local) == 9


async def test_denied_requests_record_no_held_time() -> None:
    """Local leases that a denial of the store gives back do not shorten the estimated waits."""
    async with ClusterBench(A, concurrency_policy("b", 1)) as bench:
        bench.store.lost["b"] = timeout_error()
        held = await bench.limiter.reserve("b", principal="ann")
        bench.clock.advance(20)
        await held.release()
        await bench.limiter.check("a", principal="ann", cost=10)
        for _ in range(12):
            bench.clock.advance(2)
            denied = await bench.limiter.reserve("a", "b", principal="ann")
            assert denied.decision.denied_by == ("a",)
        async with await bench.limiter.reserve("b", principal="ann"):
            denied = await bench.limiter.reserve("b", principal="ann")
            assert denied.decision.retry_after == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize("error", [timeout_error(), BucketCorrupt("no bucket", kind="wrong_type")])
async def test_servers_that_fail_one_after_the_other_are_all_decided_locally(
    error: StoreError,
) -> None:
    """Each further failure refunds the local share, and decides again with one policy more."""
    policies = (A, B, rate_policy("c", "10/hour"))
    async with ClusterBench(*policies, failures=100) as bench:
        bench.store.lost["c"] = error
        calls: list[int] = []
        acquire = bench.store.acquire

        async def failing(charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
            calls.append(len(charges))
            if len(charges) == 2:
                bench.store.lost["b"] = error
            if len(charges) == 1:
                bench.store.lost["a"] = error
            return await acquire(charges, dry_run=dry_run)

        bench.store.acquire = failing  # type: ignore[method-assign]
        decision = await bench.limiter.check("a", "b", "c", principal="ann", cost=2)
        assert calls == [3, 2, 1]
        assert (decision.outcome, decision.source) == (Outcome.ALLOWED, Source.LOCAL)
        left = [remaining(each.limits[0]) for each in decision.results]
        assert left == [8, 8, 8]
        assert len(bench.recorder.of(CheckDecided)) == 1


async def test_check_whose_servers_are_all_lost_is_decided_locally() -> None:
    """It is decided as with a store of one server."""
    async with ClusterBench(A, B) as bench:
        bench.store.lost |= {"a": timeout_error(), "b": timeout_error()}
        decision = await bench.limiter.check("a", "b", principal="ann")
        assert decision.source is Source.LOCAL
        assert len(decision.results) == 2


async def test_cancelled_check_over_several_servers_refunds_the_local_share() -> None:
    """A check that is cancelled while the living servers decide spends nothing locally."""
    async with ClusterBench(A, B) as bench:
        bench.store.lost["b"] = timeout_error()
        hold = bench.store.hold("acquire")
        async with running(bench.limiter.check("a", "b", principal="ann", cost=5)) as check:
            await hold.wait()
            check.cancel()
            await asyncio.wait({check})
        assert [each.policies for each in bench.recorder.of(CheckCancelled)] == [("a", "b")]
        local = (await bench.limiter.check("b", principal="ann")).results[0].limits[0]
        assert remaining(local) == 9


async def test_cancelled_commit_over_several_servers_corrects_the_local_share() -> None:
    """A commit that is cancelled while the living servers reply corrects both sides."""
    async with ClusterBench(A, B) as bench:
        bench.store.lost["b"] = timeout_error()
        reservation = await bench.limiter.reserve("a", "b", principal="ann", cost=5)
        hold = bench.store.hold("adjust")
        async with running(reservation.commit(1)) as commit:
            await hold.wait()
            commit.cancel()
            await asyncio.wait({commit})
        hold.released.set()
        await bench.store.wait_until_done("adjust")
        assert await bench.remaining("a") == 9
        local = (await bench.limiter.check("b", principal="ann", cost=0)).results[0].limits[0]
        assert remaining(local) == 9


async def test_commit_by_policy_over_several_servers_corrects_the_local_share() -> None:
    """Each cost is corrected where it was spent, and a misspelt name corrects nothing."""
    async with ClusterBench(A, B) as bench:
        bench.store.lost["b"] = timeout_error()
        reservation = await bench.limiter.reserve(cost={"a": 5, "b": 7}, principal="ann")
        assert [reservation.spent_cost(each) for each in ("a", "b", "c")] == [5, 7, 0]
        with pytest.raises(ConfigError, match="write one of a, b"):
            await reservation.commit({"a": 0, "c": 0})
        await reservation.commit({"b": 2})
        assert [reservation.spent_cost(each) for each in ("a", "b")] == [5, 0]
        await reservation.commit({"a": 3, "b": 9})
        assert await bench.remaining("a") == 7
        local = (await bench.limiter.check("b", principal="ann", cost=0)).results[0].limits[0]
        assert remaining(local) == 8


async def test_failures_of_servers_are_counted_one_by_one() -> None:
    """A check over several servers counts failures and successes of each."""
    async with ClusterBench(A, B, failures=2) as bench:
        bench.store.lost["a"] = timeout_error()
        await bench.limiter.check("a", principal="ann")
        bench.store.lost = {"b": timeout_error()}
        await bench.limiter.check("a", "b", principal="ann")
        bench.store.lost = {"a": timeout_error()}
        await bench.limiter.check("a", principal="ann")
        assert bench.limiter.open_nodes == []
        bench.store.lost = {}
        await bench.limiter.check("a", "b", principal="ann")
        bench.store.lost = {"b": timeout_error()}
        await bench.limiter.check("b", principal="ann")
        assert bench.limiter.open_nodes == []


@pytest.mark.parametrize("error", [timeout_error(), BucketCorrupt("no bucket", kind="wrong_type")])
async def test_checks_over_slots_of_one_server_count_a_shared_failure_once(
    error: StoreError,
) -> None:
    """A late pipeline of several checks opens no breaker, and neither does a corrupt bucket."""
    async with ClusterBench(A, B) as bench:
        bench.store.servers.moved = {"a": "b"}

        async def failing(charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
            assert not dry_run
            raise KeysFailed({charges[0].key: error})

        bench.store.acquire = failing  # type: ignore[method-assign]
        for _ in range(3):
            await bench.limiter.check("a", "b", principal="ann")
        assert bench.limiter.open_nodes == []
        assert {each.error for each in bench.recorder.of(StoreFailed)} == {error}


async def test_leases_of_both_sides_are_held_and_released() -> None:
    """A reservation releases the leases in the store and those in the process."""
    async with ClusterBench(concurrency_policy("a", 1), concurrency_policy("b", 1)) as bench:
        bench.store.lost["b"] = timeout_error()
        async with await bench.limiter.reserve("a", "b", principal="ann") as reservation:
            assert reservation.holds_leases
            assert not (await bench.limiter.reserve("b", principal="ann")).decision.allowed
        assert not reservation.holds_leases
        assert await bench.remaining("a") == 1
        async with await bench.limiter.reserve("b", principal="ann") as reservation:
            assert reservation.decision.allowed


@pytest.mark.parametrize("first", ["a", "b"])
async def test_leases_of_one_side_are_released_alone(first: str) -> None:
    """A part releases its units where they are held, in the store or in the process."""
    async with ClusterBench(concurrency_policy("a", 1), concurrency_policy("b", 1)) as bench:
        bench.store.lost["b"] = timeout_error()
        (second,) = {"a", "b"} - {first}
        async with await bench.limiter.reserve("a", "b", principal="ann") as reservation:
            for _ in range(2):
                await reservation.for_policy(first).release()
            async with await bench.limiter.reserve(first, principal="ann") as again:
                assert again.decision.allowed
            assert not (await bench.limiter.reserve(second, principal="ann")).decision.allowed
        async with await bench.limiter.reserve(second, principal="ann") as again:
            assert again.decision.allowed


async def test_leases_only_in_the_process_are_held() -> None:
    """A request whose only leases are local has leases to release."""
    async with ClusterBench(A, concurrency_policy("b", 1)) as bench:
        bench.store.lost["b"] = timeout_error()
        reservation = await bench.limiter.reserve("a", "b", principal="ann")
        assert (reservation.leases, reservation.holds_leases) == ([], True)
        await reservation.release()
        assert not reservation.holds_leases


async def test_reset_deletes_on_the_living_servers_before_it_raises() -> None:
    """The error of a lost server does not keep the other servers from deleting."""
    async with ClusterBench(A, B) as bench:
        await bench.limiter.check("a", principal="ann", cost=7)
        bench.store.lost["b"] = timeout_error()
        with pytest.raises(StoreUnavailable):
            await bench.limiter.reset("b", "a", principal="ann")
        assert await bench.remaining("a") == 10


async def test_explained_policy_of_a_living_server_has_a_state() -> None:
    """`peek` fails for a lost server only."""
    async with ClusterBench(A, B) as bench:
        bench.store.lost["b"] = timeout_error()
        assert (await bench.limiter.peek("a", subject=SUBJECT)).source is Source.STORE
        for policies in (("b",), ("a", "b")):
            with pytest.raises(StoreUnavailable):
                await bench.limiter.peek(*policies, subject=SUBJECT)
