"""Limiter over a Redis Cluster of which one shard fails: only its callers notice."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import Decision, Outcome, Source
from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import OnStoreError, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import StoreUnavailable
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.events import BreakerChanged, BreakerState, ReplicasCounted
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import AdjustFailed
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.cluster import slot_of
from fleetlimit.stores.redis.store import RedisStore
from support.cluster import NODES, Cluster, replica_of
from support.eventually import PATIENCE_SECONDS
from support.limiter import Recorder, concurrency_policy, rate_policy, remaining

KEYS = KeyScheme()
CALLERS = 14
"""Callers of each shard: the three shards have 42 in all."""
OWN = rate_policy("own", "100/hour")
SHARED = rate_policy("shared", "50/hour", key=(KeyPart(KeyKind.HEADER, "x-tenant"),))
OPEN = rate_policy(
    "open",
    "50/hour",
    key=(KeyPart(KeyKind.HEADER, "x-tenant"),),
    on_store_error=OnStoreError.ALLOW,
)
CLOSED = rate_policy(
    "closed",
    "50/hour",
    key=(KeyPart(KeyKind.HEADER, "x-tenant"),),
    on_store_error=OnStoreError.DENY,
)
TASKS = concurrency_policy("tasks", 3, lease=1)
POLICIES = (OWN, SHARED, OPEN, CLOSED, TASKS)
SHORT = Timeouts(connect=0.25, operation=0.2)
"""The operation timeout is above the default, because the machine of the tests may be busy."""


@pytest.fixture
def shards(own_cluster: Cluster) -> Cluster:
    """Return a Cluster that serves the slots of the living shards while one is lost."""
    for index in range(NODES):
        own_cluster.run(index, "CONFIG SET", "cluster-require-full-coverage", "no")
    return own_cluster


class Shards:
    """A limiter over a Cluster, and its events."""

    def __init__(self, found: Cluster) -> None:
        self.cluster = found
        self.recorder = Recorder()
        self.limiter = Limiter(
            RedisStore(found.url, KEYS, timeouts=SHORT),
            local=MemoryStore(),
            observers=[self.recorder],
            breaker=BreakerSettings(failures=3, probe_seconds=0.05),
            replica="me",
        )
        self.limiter.active_policies.replace(PolicySet(POLICIES))

    def address(self, shard: int) -> str:
        """Return the address of a shard's server."""
        return f"127.0.0.1:{self.cluster.nodes[shard].port}"

    def shard_of(self, policy: Policy, subject: Subject) -> int:
        """Return the shard of a caller's bucket."""
        return self.cluster.owner_of(slot_of(KEYS.bucket_keys(policy, subject, policy.limits)[0]))

    def callers(self, *shards: int) -> list[str]:
        """Return callers whose own buckets are on these shards."""
        found: dict[int, list[str]] = {shard: [] for shard in shards}
        for number in range(1_000):
            name = f"caller{number}"
            shard = self.shard_of(OWN, Subject(principal=Principal(name)))
            if shard in found and len(found[shard]) < CALLERS:
                found[shard].append(name)
        return [name for names in found.values() for name in names]

    def subject(self, own: int, shared: int) -> Subject:
        """Return a caller whose own bucket and whose tenant's bucket are on these shards."""
        (name, *_) = self.callers(own)
        subjects = (
            Subject(principal=Principal(name), headers={"x-tenant": str(number)})
            for number in range(1_000)
        )
        return next(each for each in subjects if self.shard_of(SHARED, each) == shared)

    @property
    def fleet_shard(self) -> int:
        """Shard of the membership's keys."""
        return self.cluster.owner_of(slot_of(KEYS.replicas_key))

    async def check_all(self, callers: Sequence[str]) -> list[Decision]:
        """Check all callers at once."""
        checks = (self.limiter.check("own", principal=caller) for caller in callers)
        return await asyncio.gather(*checks)

    async def open_breaker(self, shard: int) -> None:
        """Check the callers of a lost shard until its breaker is open."""
        opened = BreakerChanged(BreakerState.OPEN, self.address(shard))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while opened not in self.recorder.of(BreakerChanged):
                await self.check_all(self.callers(shard))

    def stop(self, shard: int) -> None:
        """Freeze a shard: its connections stay open, and nothing replies."""
        os.kill(self.cluster.nodes[shard].pid, signal.SIGSTOP)

    def resume(self, shard: int) -> None:
        """Let a frozen shard reply again."""
        os.kill(self.cluster.nodes[shard].pid, signal.SIGCONT)

    def kill(self, shard: int) -> None:
        """Kill a shard."""
        self.cluster.nodes[shard].stop()


@asynccontextmanager
async def started(found: Cluster) -> AsyncIterator[Shards]:
    """Yield a started limiter, and close it at the end."""
    shards = Shards(found)
    await shards.limiter.start()
    try:
        yield shards
    finally:
        await shards.limiter.aclose()


LOSSES = {"killed": Shards.kill, "frozen": Shards.stop}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("lost", range(NODES))
async def test_lost_shard_degrades_only_its_callers(
    shards: Cluster, lost: int, lose: Callable[[Shards, int], None]
) -> None:
    """The store decides all callers of the living shards, before and after the breaker opens."""
    async with started(shards) as bench:
        living = bench.callers(*({0, 1, 2} - {lost}))
        theirs = bench.callers(lost)
        lose(bench, lost)
        rounds = [await bench.check_all([*living, *theirs]) for _ in range(6)]
        await bench.open_breaker(lost)
        rounds += [await bench.check_all([*living, *theirs]) for _ in range(6)]
        decided = [decisions[: len(living)] for decisions in rounds]
        assert {each.source for decisions in decided for each in decisions} == {Source.STORE}
        left = [
            [remaining(each.results[0].limits[0]) for each in decisions] for decisions in decided
        ]
        assert left == [[99 - round_] * len(living) for round_ in range(12)]
        degraded = [each for decisions in rounds for each in decisions[len(living) :]]
        assert {each.source for each in degraded} == {Source.LOCAL}
        assert bench.limiter.open_nodes == [bench.address(lost)]
        assert {each.node for each in bench.recorder.of(BreakerChanged)} == {bench.address(lost)}
        if lose is Shards.stop:
            bench.resume(lost)


async def test_search_for_lost_servers_delays_no_caller_of_a_living_one(shards: Cluster) -> None:
    """With two frozen servers of three the search takes long; checks use the last topology."""
    async with started(shards) as bench:
        for lost in (0, 2):
            bench.stop(lost)
        living = bench.callers(1)
        for round_ in range(20):
            theirs = asyncio.ensure_future(bench.check_all(bench.callers(0, 2)))
            decisions = await bench.check_all(living)
            assert {each.source for each in decisions} == {Source.STORE}
            left = {remaining(each.results[0].limits[0]) for each in decisions}
            assert left == {99 - round_}
            assert {each.source for each in await theirs} == {Source.LOCAL}
        await bench.open_breaker(0)
        bench.resume(0)
        await bench.recorder.wait_for(BreakerChanged(BreakerState.CLOSED, bench.address(0)))
        decisions = await bench.check_all(bench.callers(0))
        assert {each.source for each in decisions} == {Source.STORE}
        bench.resume(2)


async def test_replica_that_becomes_primary_decides_the_callers_of_its_shard(
    shards: Cluster,
) -> None:
    """The breaker of the lost primary closes, because it has no keys any more."""
    with replica_of(shards, 1) as replica:
        async with started(shards) as bench:
            theirs = bench.callers(1)
            bench.kill(1)
            await bench.open_breaker(1)
            await bench.recorder.wait_for(BreakerChanged(BreakerState.CLOSED, bench.address(1)))
            topology = bench.limiter.store.topology
            assert topology is not None
            assert f"127.0.0.1:{replica.port}" in topology.nodes
            decisions = await bench.check_all(theirs)
            assert {each.source for each in decisions} == {Source.STORE}
            assert bench.limiter.open_nodes == []


async def test_returned_shard_decides_again(shards: Cluster) -> None:
    """The probe of the lost shard closes its breaker, and nothing else."""
    async with started(shards) as bench:
        bench.stop(1)
        await bench.open_breaker(1)
        bench.resume(1)
        await bench.recorder.wait_for(BreakerChanged(BreakerState.CLOSED, bench.address(1)))
        assert bench.limiter.open_nodes == []
        decisions = await bench.check_all(bench.callers(0, 1, 2))
        assert {each.source for each in decisions} == {Source.STORE}


@pytest.mark.parametrize("opened", [False, True], ids=["breaker closed", "breaker open"])
async def test_check_over_several_shards_is_decided_by_the_living_ones(
    shards: Cluster, *, opened: bool
) -> None:
    """Each policy of a lost shard applies its `on_store_error`; the store decides the others."""
    async with started(shards) as bench:
        subject = bench.subject(own=0, shared=1)
        bench.kill(1)
        if opened:
            await bench.open_breaker(1)
        admitted = await bench.limiter.check("own", "shared", "open", subject=subject)
        assert [(each.policy, each.outcome) for each in admitted.results] == [
            ("own", Outcome.ALLOWED),
            ("shared", Outcome.ALLOWED),
            ("open", Outcome.FAIL_OPEN),
        ]
        assert (admitted.allowed, admitted.source) == (True, Source.LOCAL)
        peeked = await bench.limiter.peek("own", subject=subject, cost=0)
        assert remaining(peeked.results[0].limits[0]) == 99
        rejected = await bench.limiter.check("own", "closed", subject=subject)
        assert (rejected.outcome, rejected.denied_by) == (Outcome.FAIL_CLOSED, ("closed",))
        peeked = await bench.limiter.peek("own", subject=subject, cost=0)
        assert remaining(peeked.results[0].limits[0]) == 99


async def test_denial_by_a_living_shard_refunds_the_local_share(shards: Cluster) -> None:
    """A check that the store denies spends nothing from the share of the lost shard's policy."""
    async with started(shards) as bench:
        subject = bench.subject(own=0, shared=1)
        await bench.limiter.check("own", subject=subject, cost=100)
        bench.kill(1)
        await bench.open_breaker(1)
        for _ in range(60):
            denied = await bench.limiter.check("own", "shared", subject=subject)
            assert denied.denied_by == ("own",)
        local = await bench.limiter.check("shared", subject=subject)
        assert (local.source, remaining(local.results[0].limits[0])) == (Source.LOCAL, 49)


async def test_reservation_over_a_lost_shard_is_corrected_on_both_sides(shards: Cluster) -> None:
    """A refund corrects the bucket in the store and the local share."""
    async with started(shards) as bench:
        subject = bench.subject(own=0, shared=1)
        bench.kill(1)
        await bench.open_breaker(1)
        reservation = await bench.limiter.reserve("own", "shared", subject=subject, cost=10)
        await reservation.commit(4)
        peeked = await bench.limiter.peek("own", subject=subject, cost=0)
        assert remaining(peeked.results[0].limits[0]) == 96
        local = await bench.limiter.check("shared", subject=subject)
        assert remaining(local.results[0].limits[0]) == 45


async def test_lost_shard_of_the_membership_leaves_callers_of_other_shards(
    shards: Cluster,
) -> None:
    """Heartbeats and reports fail; checks of the other shards are decided by the store."""
    async with started(shards) as bench:
        lost = bench.fleet_shard
        bench.kill(lost)
        living = bench.callers(*({0, 1, 2} - {lost}))
        for _ in range(4):
            await bench.limiter.membership.heartbeat()
            await bench.limiter.audit.run_once()
            decisions = await bench.check_all(living)
            assert {each.source for each in decisions} == {Source.STORE}
        assert bench.recorder.of(ReplicasCounted) == [ReplicasCounted(1)]


@pytest.mark.parametrize("lost", [1, 2])
async def test_limiter_starts_while_a_shard_is_lost(shards: Cluster, lost: int) -> None:
    """A replica that starts meanwhile uses the living shards."""
    bench = Shards(shards)
    bench.kill(lost)
    async with started(shards) as bench:
        living = bench.callers(*({0, 1, 2} - {lost}))
        decisions = await bench.check_all(living)
        assert {each.source for each in decisions} == {Source.STORE}


@pytest.mark.parametrize("distance", [0, 1], ids=["membership lost", "membership lives"])
async def test_reset_deletes_the_buckets_of_living_shards(shards: Cluster, distance: int) -> None:
    """The error for the lost shard's bucket comes after the other buckets are deleted."""
    async with started(shards) as bench:
        lost = (bench.fleet_shard + distance) % NODES
        living = (lost + 1) % NODES
        subject = bench.subject(own=living, shared=lost)
        await bench.limiter.check("own", subject=subject, cost=30)
        bench.kill(lost)
        await bench.open_breaker(lost)
        with pytest.raises(StoreUnavailable):
            await bench.limiter.reset("own", "shared", subject=subject)
        assert await bench.limiter.reset("own", subject=subject) == 0
        await bench.limiter.check("own", subject=subject, cost=30)
        assert await bench.limiter.reset("own", subject=subject) == 1
        peeked = await bench.limiter.peek("own", subject=subject, cost=0)
        assert remaining(peeked.results[0].limits[0]) == 100


async def test_adjustments_on_living_shards_have_their_times(shards: Cluster) -> None:
    """One call adjusts buckets of three shards; only those of the lost one failed."""
    async with started(shards) as bench:
        store = bench.limiter.store
        (quota,) = OWN.limits
        subjects = [Subject(principal=Principal(each)) for each in bench.callers(0, 1, 2)]
        charges = [Charge(KEYS.bucket_keys(OWN, each, (quota,))[0], quota, 5) for each in subjects]
        for each in charges:
            assert (await store.acquire([each])).spent
        bench.kill(1)
        with pytest.raises(AdjustFailed) as failed:
            await store.adjust([each.adjustment(5, 0) for each in charges])
        theirs = {
            each.key
            for each, subject in zip(charges, subjects, strict=True)
            if bench.shard_of(OWN, subject) == 1
        }
        assert failed.value.errors.keys() == theirs
        living = {each.key for each in charges} - theirs
        assert failed.value.store_adjusted_at_us_by_key.keys() == living
        for each in charges:
            if each.key in living:
                status = (await store.acquire([each], dry_run=True)).statuses[0]
                assert status.remaining == 90


async def test_leases_on_living_shards_are_renewed_while_one_is_lost(shards: Cluster) -> None:
    """A renewal that fails for a lost shard's leases renews the other ones."""
    async with started(shards) as bench:
        callers = bench.callers(0, 1, 2)
        held = [await bench.limiter.reserve("tasks", principal=caller) for caller in callers]
        bench.stop(1)
        leases = [lease for each in held for lease in each.leases]
        await bench.limiter._gateway.renew(leases)
        bench.resume(1)
        living = [each for each in leases if bench.cluster.owner_of(slot_of(each.key)) != 1]
        lifetimes = [
            bench.cluster.run(bench.cluster.owner_of(slot_of(each.key)), "PTTL", each.key)
            for each in living
        ]
        assert len(living) == 2 * CALLERS
        assert min(lifetimes) > 0
