"""Leases: renewed while a request lasts, and never left behind."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import Decision, Outcome, Source
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Mode, ModeName, Policy
from fleetlimit.core.quota import SECOND_US, concurrency_quota
from fleetlimit.core.subject import Subject
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreakers
from fleetlimit.limiter.events import StoreFailed
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.lease_renewer import RENEWAL_CHUNK, LeaseRenewer
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.limiter.plan import Plan, PolicyCost, PolicyPlan, make_plan
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import StoreGateway
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock
from support.limiter import (
    Bench,
    FakeStore,
    ManualSleep,
    Recorder,
    concurrency_policy,
    rate_policy,
    running,
    timeout_error,
)

LEASE_US = 30_000_000
ALLOWED = Decision(Outcome.ALLOWED, Source.STORE, spent=True)


class RenewerBench:
    """A lease renewer over a fake store."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FakeStore(self.clock)
        self.pauses = ManualSleep()
        self.renewer = LeaseRenewer(
            self.store.renew, self.store.adjust, HeldTimes(self.clock), sleep=self.pauses
        )

    async def track(
        self, key: str = "k", *, lease_us: int = LEASE_US, units: int = 1
    ) -> Reservation:
        """Acquire a lease on all units of a bucket, and track it."""
        quota = concurrency_quota(units, lease=lease_us / SECOND_US)
        return await self._track(Charge(key, quota, units, f"lease-{key}"))

    async def track_both(self, *keys: str) -> Reservation:
        """Acquire a lease on each of these buckets, each of a policy with the name of the key."""
        return await self._track(
            *(Charge(key, concurrency_quota(1), 1, f"l-{key}") for key in keys)
        )

    async def _track(self, *charges: Charge) -> Reservation:
        result = await self.store.acquire(charges)
        assert result.spent
        plans = tuple(
            PolicyPlan(Policy(each.key, (each.quota,)), Mode.ENFORCE, index, index + 1)
            for index, each in enumerate(charges)
        )
        plan = Plan(plans, charges, "caller", has_leases=True)
        decision = plan.decision(result.statuses, source=Source.STORE, spent=True)
        held = Reservation(decision, plan, result, self.store.adjust)
        self.renewer.track(held)
        return held

    async def is_held(self, key: str = "k") -> bool:
        """Return whether another request would be denied."""
        charge = Charge(key, concurrency_quota(1), 1, "other")
        return not (await self.store.memory.acquire([charge], dry_run=True)).statuses[0].allowed


@asynccontextmanager
async def renewer_bench() -> AsyncIterator[RenewerBench]:
    """Yield a renewer, close it at the end, and check that no task is left."""
    before = asyncio.all_tasks()
    bench = RenewerBench()
    yield bench
    await bench.renewer.aclose()
    assert asyncio.all_tasks() <= before


async def test_lease_is_renewed_while_it_is_held() -> None:
    """A request may last for many lifetimes of its lease: there are three renewals in each."""
    async with renewer_bench() as bench:
        held = await bench.track()
        for renewal in range(1, 10):
            await bench.pauses.wait_for_calls(renewal)
            bench.clock.advance(10)
            bench.pauses.finish()
            await bench.store.wait_until_done("renew", renewal)
            assert await bench.is_held()
        assert set(bench.pauses.requested.entries) == {10}
        await held.release()
        assert not await bench.is_held()


async def test_released_lease_is_not_renewed() -> None:
    """A released lease is not renewed, and others still are."""
    async with renewer_bench() as bench:
        held, other = await bench.track(), await bench.track("other")
        await bench.pauses.wait_for_calls(1)
        await held.release()
        bench.pauses.finish()
        await bench.pauses.wait_for_calls(2)
        assert [each.key for each in bench.store.adjustments] == ["k"]
        assert [each.key for each in bench.store.renewed] == ["other"]
        assert not await bench.is_held()
        await other.release()


async def test_event_loop_runs_between_the_chunks_of_a_renewal() -> None:
    """A store in memory replies without a wait; requests do not wait for thousands of leases."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    chunks: list[int] = []

    async def renew(leases: Sequence[Charge]) -> None:
        chunks.append(len(leases))
        await store.renew(leases)

    renewer = LeaseRenewer(renew, store.adjust, HeldTimes(clock))
    quota = concurrency_quota(3 * RENEWAL_CHUNK)
    held = []
    for number in range(3 * RENEWAL_CHUNK):
        charge = Charge("k", quota, 1, f"lease{number}")
        policy_plan = PolicyPlan(Policy("c", (quota,)), Mode.ENFORCE, 0, 1)
        plan = Plan((policy_plan,), (charge,), "caller", has_leases=True)
        result = await store.acquire([charge])
        decision = plan.decision(result.statuses, source=Source.STORE, spent=True)
        held.append(Reservation(decision, plan, result, store.adjust))
    renewing = asyncio.ensure_future(renewer._renew_all(held))
    for renewed in (1, 2, 3):
        await asyncio.sleep(0)
        assert chunks == [RENEWAL_CHUNK] * renewed
    await renewing


async def test_lease_renewer_runs_no_task_without_leases() -> None:
    """Without a lease no task runs; the next lease starts one."""
    async with renewer_bench() as bench:
        resting = asyncio.all_tasks()
        for turn in (1, 2):
            held = await bench.track()
            await bench.pauses.wait_for_calls(turn)
            (task,) = asyncio.all_tasks() - resting
            await held.release()
            bench.pauses.finish()
            await asyncio.wait({task})


def test_leases_are_renewed_in_a_later_event_loop() -> None:
    """A renewal task whose event loop has ended is started again in the next one."""
    bench = RenewerBench()

    async def track_and_release() -> None:
        held = await bench.track("a")
        await held.release()

    async def hold() -> None:
        pauses = len(bench.pauses.requested.entries)
        held = await bench.track("b")
        await bench.pauses.wait_for_calls(pauses + 1)
        bench.pauses.finish()
        await bench.store.wait_until_done("renew")
        await held.release()

    asyncio.run(track_and_release())
    asyncio.run(hold())
    assert [each.key for each in bench.store.renewed] == ["b"]


async def test_lease_of_a_dead_owner_expires() -> None:
    """A lease that is not renewed expires one lifetime after its last renewal."""
    async with renewer_bench() as bench:
        held = await bench.track()
        await bench.renewer.aclose()
        bench.clock.advance_us(LEASE_US - 1)
        assert await bench.is_held()
        bench.clock.advance_us(1)
        assert not await bench.is_held()
        del held


async def test_lease_of_a_dropped_reservation_is_released() -> None:
    """A reservation that is dropped without a release gives its lease back, and is not renewed."""
    async with renewer_bench() as bench:
        held = await bench.track()
        await bench.pauses.wait_for_calls(1)
        del held
        await bench.store.wait_until_done("adjust")
        assert not await bench.is_held()
        bench.pauses.finish()
        assert bench.store.renewed == []


async def test_lease_is_released_once() -> None:
    """A reservation that was released is dropped without another call of the store."""
    async with renewer_bench() as bench:
        held = await bench.track()
        await held.release()
        del held
        await asyncio.sleep(0)
        assert bench.store.count("adjust") == 1


def test_dropping_a_reservation_after_its_loop_is_harmless() -> None:
    """A reservation that outlives its event loop is dropped without an error; its lease expires."""

    async def track() -> tuple[RenewerBench, Reservation]:
        async with renewer_bench() as bench:
            return bench, await bench.track()

    bench, held = asyncio.run(track())
    del held
    assert bench.store.adjustments == []


@pytest.mark.parametrize(
    ("count", "units"), [(2 * RENEWAL_CHUNK + 1, 1), (3, RENEWAL_CHUNK), (5, RENEWAL_CHUNK // 2)]
)
async def test_leases_are_renewed_in_chunks(count: int, units: int) -> None:
    """Thousands of units are no single call, which would block the server for all replicas."""
    async with renewer_bench() as bench:
        held = [await bench.track(str(number), units=units) for number in range(count)]
        await bench.pauses.wait_for_calls(1)
        bench.pauses.finish()
        await bench.pauses.wait_for_calls(2)
        assert bench.store.count("renew") == 3
        assert len({each.key for each in bench.store.renewed}) == count
        for each in held:
            await each.release()


async def test_short_lease_does_not_wait_for_a_long_one() -> None:
    """A lease of a second, acquired after one of 30 s, is renewed within the second."""
    async with renewer_bench() as bench:
        long = await bench.track("long")
        await bench.pauses.wait_for_calls(1)
        short = await bench.track("short", lease_us=900_000)
        await bench.pauses.wait_for_calls(2)
        assert bench.pauses.requested.entries == [10, 0.3]
        bench.clock.advance(0.6)
        bench.pauses.finish(1)
        await bench.store.wait_until_done("renew")
        bench.clock.advance(0.6)
        assert await bench.is_held("short")
        await long.release()
        await short.release()


async def test_renewal_in_flight_does_not_restore_a_released_lease() -> None:
    """A lease that is released while its renewal is in flight is not held afterwards."""
    async with renewer_bench() as bench:
        gone, stays = await bench.track("gone"), await bench.track("stays")
        await bench.pauses.wait_for_calls(1)
        renewal = bench.store.hold("renew")
        bench.pauses.finish()
        await renewal.wait()
        await gone.release()
        renewal.released.set()
        await bench.pauses.wait_for_calls(2)
        assert not await bench.is_held("gone")
        assert await bench.is_held("stays")
        await stays.release()


async def test_renewal_in_flight_does_not_restore_the_lease_of_a_part() -> None:
    """Of a reservation of two buckets, the one that is released meanwhile is not held again."""
    async with renewer_bench() as bench:
        held = await bench.track_both("gone", "stays")
        await bench.pauses.wait_for_calls(1)
        renewal = bench.store.hold("renew")
        bench.pauses.finish()
        await renewal.wait()
        await held.for_policy("gone").release()
        renewal.released.set()
        await bench.pauses.wait_for_calls(2)
        assert not await bench.is_held("gone")
        assert await bench.is_held("stays")
        await held.release()


async def test_lease_renewer_aclose_twice() -> None:
    """Closing works before the first lease, while one is held, and again."""
    async with renewer_bench() as bench:
        await bench.renewer.aclose()
        await bench.track()
        await bench.renewer.aclose()
        await bench.renewer.aclose()


async def test_reservation_holds_its_lease_until_the_end() -> None:
    """With two slots two requests hold one each; a third is admitted when one has ended."""
    async with Bench(concurrency_policy("c", 2)) as bench:
        async with await bench.limiter.reserve("c", principal="ann") as first:
            async with await bench.limiter.reserve("c", principal="ann") as second:
                assert first.decision.allowed
                assert second.decision.allowed
                denied = await bench.limiter.reserve("c", principal="ann")
                assert not denied.decision.allowed
                assert not denied.leases
            async with await bench.limiter.reserve("c", principal="ann") as third:
                assert third.decision.allowed
        assert await bench.remaining("c") == 2


async def test_reservation_releases_its_lease_after_an_error() -> None:
    """An exception in the request releases the lease."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        with pytest.raises(RuntimeError):
            async with await bench.limiter.reserve("c", principal="ann"):
                raise RuntimeError
        assert await bench.remaining("c") == 1


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_check_leaves_no_lease(late: bool) -> None:  # noqa: FBT001 - a case
    """A request that is cancelled before or after the store has decided holds no slot."""
    async with Bench(concurrency_policy("c", 1), rate_policy("r", "5/minute")) as bench:
        hold = bench.store.hold("acquire", after_work=late)
        async with running(bench.limiter.reserve("c", "r", principal="ann")) as request:
            await hold.wait()
            request.cancel()
            await asyncio.wait({request})
            assert request.cancelled()
            hold.released.set()
            await bench.store.wait_until_done("adjust")
        assert await bench.remaining("c") == 1
        assert await bench.remaining("r") == 4


async def test_cancelled_and_denied_check_releases_nothing() -> None:
    """A request that is cancelled before its denial has no lease to release."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        held = await bench.limiter.reserve("c", principal="ann")
        hold = bench.store.hold("acquire")
        async with running(bench.limiter.reserve("c", principal="ann")) as request:
            await hold.wait()
            request.cancel()
            hold.released.set()
            await bench.store.wait_until_done("acquire", 2)
        await bench.limiter.aclose()
        assert bench.store.count("adjust") == 0
        assert await bench.remaining("c") == 0
        await held.release()


async def test_cancelled_and_failed_check_leaves_no_task() -> None:
    """A call that fails after its request was cancelled is emitted, and leaves no task."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        hold = bench.store.hold("acquire", error=timeout_error())
        async with running(bench.limiter.reserve("c", principal="ann")) as request:
            await hold.wait()
            request.cancel()
            hold.released.set()
        assert bench.store.count("adjust") == 0


async def test_limiter_aclose_waits_for_abandoned_leases() -> None:
    """A lease of a cancelled request is released before the limiter is closed."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        hold = bench.store.hold("acquire", after_work=True)
        async with running(bench.limiter.reserve("c", principal="ann")) as request:
            await hold.wait()
            request.cancel()
            await asyncio.wait({request})
        async with running(bench.limiter.aclose()) as closing:
            hold.released.set()
            await closing
        assert bench.store.count("adjust") == 1
        assert bench.store.closed == 1


async def test_cancelled_release_is_completed() -> None:
    """A release or refund that has begun is completed, even if its request is cancelled."""
    async with Bench(concurrency_policy("c", 1), rate_policy("r", "5/minute")) as bench:
        reservation = await bench.limiter.reserve("c", "r", principal="ann")
        hold = bench.store.hold("adjust")
        async with running(reservation.refund()) as refund:
            await hold.wait()
            refund.cancel()
            await asyncio.wait({refund})
            hold.released.set()
            await bench.store.wait_until_done("adjust")
        assert (await bench.remaining("c"), await bench.remaining("r")) == (1, 5)


async def test_failed_renewal_is_emitted_and_raises_nothing() -> None:
    """A renewal that fails is a `StoreFailed`; the lease expires unless the next one succeeds."""
    clock, recorder, events = ManualClock(), Recorder(), BucketEvents()
    store = FakeStore(clock)
    store.errors["renew"] = timeout_error()
    breakers = CircuitBreakers(BreakerSettings(), None, store.open, recorder.on_event)
    gateway = StoreGateway(
        store,
        breakers,
        events,
        UsageSample(0, events),
        held_times=HeldTimes(clock),
        clock=clock,
        own_loop=OwnLoop(),
    )
    await gateway.renew([Charge("k", concurrency_quota(1), 1, "lease")])
    assert [event.operation for event in recorder.of(StoreFailed)] == ["renew"]
    await gateway.aclose()


async def test_local_leases_are_renewed() -> None:
    """While the store is unavailable a long request keeps its slot in the local share."""
    before = asyncio.all_tasks()
    clock, pauses = ManualClock(), ManualSleep()
    local = MemoryStore(clock.monotonic_us)
    fallback = Fallback(local, HeldTimes(ManualClock()), OwnLoop(), sleep=pauses)
    costs = [PolicyCost(concurrency_policy("c", 2), 1)]
    plans = [make_plan(costs, Subject(), KeyScheme()) for _ in range(2)]
    held = await fallback.decide(plans[0], 2)
    assert held.decision.source is Source.LOCAL
    for renewal in range(1, 6):
        await pauses.wait_for_calls(renewal)
        clock.advance(10)
        pauses.finish()
    await pauses.wait_for_calls(6)
    assert not (await fallback.decide(plans[1], 2)).decision.allowed
    await held.release()
    assert (await fallback.decide(plans[1], 2)).decision.allowed
    await fallback.aclose()
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_check_of_a_concurrency_policy_is_refused(mode: ModeName) -> None:
    """`check` returns nothing that releases a unit, so it holds none; `peek` and `reserve` do."""
    policies = (rate_policy("r", "5/minute"), concurrency_policy("c", 1, mode=mode))
    async with Bench(*policies) as bench:
        with pytest.raises(
            ConfigError, match=r"policy c has a concurrency limit.*write `async with"
        ):
            await bench.limiter.check("r", "c", principal="ann")
        assert (await bench.remaining("r"), await bench.remaining("c")) == (5, 1)
        async with await bench.limiter.reserve("r", "c", principal="ann"):
            assert await bench.remaining("c") == 0
