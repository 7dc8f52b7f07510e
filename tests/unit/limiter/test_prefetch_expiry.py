"""Prefetches: expiry, refunds and the audit."""

import asyncio
from collections.abc import Sequence

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.plan import PolicyCost, make_plan
from fleetlimit.limiter.prefetch.prefetcher import Prefetcher
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import Bench, FakeStore, ManualSleep, running, timeout_error
from support.prefetch import BUCKET, WINDOW, check_times, start_checks


async def test_prefetched_reservation_is_corrected_in_the_store() -> None:
    """A refund goes to the store, as of the time at which the prefetch was acquired."""
    async with Bench(BUCKET) as bench:
        await check_times(bench, 3)
        taken_us = bench.clock.monotonic_us()
        bench.clock.advance(1)
        await check_times(bench, 1)
        reservation = await bench.limiter.reserve("p", principal="ann", cost=3)
        await reservation.commit(1)
        (adjustment,) = bench.store.adjustments
        assert adjustment.delta == -2
        assert adjustment.store_acquired_at_us == bench.clock.monotonic_us()
        hold = await bench.limiter.reserve("p", principal="ann")
        bench.clock.advance(1)
        await hold.refund()
        assert bench.store.adjustments[-1].delta == -1
        assert bench.store.adjustments[-1].store_acquired_at_us == taken_us + 1_000_000


async def test_reset_drops_prefetches() -> None:
    """After a reset the next check calls the store, whose new bucket is refunded nothing."""
    async with Bench(BUCKET, WINDOW) as bench:
        await check_times(bench, 4)
        await check_times(bench, 4, policy="w")
        assert await bench.limiter.reset("p", principal="ann") == 1
        assert (await bench.remaining("p"), await bench.remaining("w")) == (100, 93)
        before = bench.store.count("acquire")
        await check_times(bench, 3, policy="w")
        assert bench.store.count("acquire") == before
        await check_times(bench, 1)
        assert bench.store.count("acquire") == before + 1
        left = await bench.remaining("p")
        await bench.limiter._gateway._prefetcher.reclaim()
        assert await bench.remaining("p") == left


async def test_new_policies_refund_prefetches() -> None:
    """New policies have prefetches of their own; those of the previous set are refunded."""
    async with Bench(WINDOW) as bench:
        await check_times(bench, 4, policy="w")
        bench.limiter.active_policies.replace(PolicySet([WINDOW]))
        await bench.limiter._gateway._prefetcher.reclaim()
        assert await bench.remaining("w") == 96


async def test_prefetcher_aclose_refunds_prefetches() -> None:
    """A window is refunded all units, a token bucket those that it cannot have refilled."""
    for policy, given in (("p", 7), ("w", 9)):
        async with Bench(BUCKET, WINDOW) as bench:
            await check_times(bench, 16, policy=policy)
        assert [each.delta for each in bench.store.adjustments] == [-given]


async def test_prefetch_aclose_waits_for_a_call_in_flight() -> None:
    """The check of a call in flight is served, and the rest of the prefetch refunded."""
    async with Bench(WINDOW) as bench:
        await check_times(bench, 1, policy="w")
        hold = bench.store.hold("acquire", after_work=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(bench.limiter.check("w", principal="ann"))
            await hold.wait()
            group.create_task(bench.limiter._gateway._prefetcher.aclose())
            for _ in range(5):
                await asyncio.sleep(0)
            hold.released.set()
        assert [each.delta for each in bench.store.adjustments] == [-1]


async def test_prefetch_expires_with_its_window() -> None:
    """A prefetch is not spent in the next window, whose limit it was not acquired from."""
    async with Bench(WINDOW) as bench:
        # The clock starts at the beginning of a minute.
        bench.clock.advance(59)
        await check_times(bench, 4, policy="w")
        bench.clock.advance(0.999_999)
        await check_times(bench, 1, policy="w")
        assert bench.store.count("acquire") == 3
        bench.clock.advance(0.000_001)
        await check_times(bench, 1, policy="w")
        assert bench.store.count("acquire") == 4


async def test_expired_prefetch_is_refunded_once() -> None:
    """The unused units of an expired prefetch are refunded once, to a window that is open."""
    async with Bench(WINDOW) as bench:
        await check_times(bench, 4, policy="w")
        bench.clock.advance(6)
        prefetcher = bench.limiter._gateway._prefetcher
        await prefetcher.reclaim()
        await prefetcher.reclaim()
        assert [each.delta for each in bench.store.adjustments] == [-3]
        assert await bench.remaining("w") == 96
        assert prefetcher._buckets == {}


class PrefetchBench:
    """A prefetcher over a fake store, with pauses that the test ends."""

    def __init__(self, *, max_buckets: int = 10) -> None:
        self.clock = ManualClock()
        self.store = FakeStore(self.clock)
        self.pauses = ManualSleep()
        self.error: Exception | None = None
        events = BucketEvents()
        self.prefetcher = Prefetcher(
            self.acquire,
            self.store.adjust,
            events,
            UsageSample(0, events),
            self.clock,
            sleep=self.pauses,
            max_buckets=max_buckets,
        )

    async def acquire(self, charges: Sequence[Charge]) -> AcquireResult:
        """Call the store, or raise the test's error."""
        if self.error is not None:
            raise self.error
        return await self.store.acquire(charges)

    async def spend(self, caller: str, *, times: int = 1) -> None:
        """Spend several times."""
        subject = Subject(principal=Principal(caller))
        plan = make_plan([PolicyCost(WINDOW, 1)], subject, KeyScheme())
        assert plan.prefetch is not None
        for _ in range(times):
            bucket = self.prefetcher.bucket_for(plan.prefetch)
            assert bucket is not None
            assert (await self.prefetcher.acquire(plan, plan.prefetch.cost, bucket)).prefetched


async def test_prefetch_reclaims_every_second() -> None:
    """After the first prefetch, expired prefetches are refunded every second."""
    counter = PrefetchBench()
    assert counter.pauses.requested.entries == []
    await counter.spend("ann", times=4)
    await counter.spend("bob")
    await counter.pauses.wait_for_calls(1)
    counter.clock.advance(6)
    counter.pauses.finish()
    await counter.store.wait_until_done("adjust")
    await counter.prefetcher.aclose()
    assert set(counter.pauses.requested.entries) == {1.0}
    assert [each.delta for each in counter.store.adjustments] == [-3]


def test_prefetch_reclaims_in_a_later_event_loop() -> None:
    """Prefetches of an event loop that has ended are refunded in the next one."""
    counter = PrefetchBench()

    async def spend_and_reclaim() -> None:
        pauses = len(counter.pauses.requested.entries)
        await counter.spend("bob")
        await counter.pauses.wait_for_calls(pauses + 1)
        counter.clock.advance(6)
        counter.pauses.finish()
        await counter.store.wait_until_done("adjust")

    asyncio.run(counter.spend("ann", times=4))
    asyncio.run(spend_and_reclaim())
    assert [each.delta for each in counter.store.adjustments] == [-3]


async def test_prefetch_state_is_bounded() -> None:
    """The oldest bucket's state is dropped, and its prefetch refunded."""
    counter = PrefetchBench(max_buckets=2)
    for caller in ("ann", "bob", "cid"):
        await counter.spend(caller, times=2)
    assert len(counter.prefetcher._buckets) == 2
    await counter.prefetcher.reclaim()
    assert [each.delta for each in counter.store.adjustments] == [-1]
    await counter.prefetcher.aclose()


async def test_prefetch_unexpected_error_reaches_all_waiters() -> None:
    """The waiters raise it, and the next check calls the store again."""
    counter = PrefetchBench()
    counter.error = RuntimeError("unthinkable")
    with pytest.raises(RuntimeError, match="unthinkable"):
        await counter.spend("ann")
    counter.error = timeout_error()
    with pytest.raises(StoreError):
        await counter.spend("ann")
    counter.error = None
    await counter.spend("ann")
    await counter.prefetcher.aclose()


@pytest.mark.parametrize("policy", [BUCKET, WINDOW], ids=["token_bucket", "fixed_window"])
async def test_audit_counts_prefetches(policy: Policy) -> None:
    """A prefetch is counted when it is acquired, and its refund is subtracted."""
    store = MemoryStore((clock := ManualClock()).monotonic_us)
    fleet = Fleet(clock, lambda: store, policy)
    passed = 0
    await fleet.audit_all()
    for second in range(150):
        for name in ("a", "b", "c"):
            passed += await fleet.spend(name, policy.name, "ann", times=second % 7)
            await fleet[name]._gateway._prefetcher.reclaim()
        await fleet.advance(1)
    for name in ("a", "b", "c"):
        await fleet[name]._gateway._prefetcher.aclose()
    await fleet.advance_until_compared()
    assert (fleet.overshoots(), fleet.overshoot(policy.name)) == ([], 0)
    assert passed <= fleet.total(policy.name, "admitted") <= passed + 3 * 10
    await fleet.aclose()


@pytest.mark.parametrize("cause", ["reload", "eviction"])
async def test_prefetch_in_flight_at_a_retirement_is_refunded(cause: str) -> None:
    """A call in flight at a reload or an eviction serves its check; the unused units go back."""
    counter = PrefetchBench(max_buckets=1)
    await counter.spend("ann", times=3)
    hold = counter.store.hold("acquire", after_work=True)
    async with running(counter.spend("ann")) as check:
        await hold.wait()
        if cause == "reload":
            counter.prefetcher.retire_all()
        else:
            await counter.spend("bob")
        hold.released.set()
        await check
    await counter.prefetcher.reclaim()
    assert [each.delta for each in counter.store.adjustments] == [-3]
    await counter.prefetcher.aclose()


async def test_check_cancelled_after_a_reload_returns_its_units() -> None:
    """Units returned to a prefetch that was retired are refunded."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("acquire")
        first, second = start_checks(bench, 1, 1)
        await hold.wait()
        prefetcher = bench.limiter._gateway._prefetcher
        ((bucket,),) = [prefetcher._buckets.values()]
        prefetcher.retire_all()
        bucket.waiters[0].reply.add_done_callback(lambda _: second.cancel())
        hold.released.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        # A frozen clock: the refund assumes up to a second, in which a token bucket refills.
        assert [each.left for each in prefetcher._retired] == [1]


async def test_reset_after_a_reload_refunds_nothing() -> None:
    """Units that wait for their refund were spent from a bucket that was reset since."""
    async with Bench(WINDOW) as bench:
        await check_times(bench, 4, policy="w")
        bench.limiter.active_policies.replace(PolicySet([WINDOW]))
        await bench.limiter.reset("w", principal="ann")
        await check_times(bench, 4, policy="w")
        left = await bench.remaining("w")
        await bench.limiter._gateway._prefetcher.reclaim()
        assert await bench.remaining("w") == left
