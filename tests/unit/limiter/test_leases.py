"""Leases: renewed for as long as a request lasts, and never left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import Decision, Outcome, PolicyResult, Source
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.quota import SECOND_US, concurrency_quota
from fleetlimit.core.subject import Subject
from fleetlimit.limiter.fallback import Fallback
from fleetlimit.limiter.plan import Plan, PolicyPlan, make_plan
from fleetlimit.limiter.reservation import LeaseRenewer, Reservation
from fleetlimit.stores.memory import MemoryStore
from support.limiter import (
    Bench,
    FakeStore,
    ManualClock,
    ManualSleep,
    concurrency_policy,
    rate_policy,
    running,
    timeout_error,
)

LEASE_US = 30_000_000
ALLOWED = Decision(Outcome.ALLOWED, Source.STORE, spent=True)


class RenewerBench:
    """A keeper of leases over a store that it renews them in."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FakeStore(self.clock)
        self.pauses = ManualSleep()
        self.renewer = LeaseRenewer(self.store.adjust, sleep=self.pauses)

    async def track(self, key: str = "k", *, lease_us: int = LEASE_US) -> Reservation:
        """Take a lease on a bucket of one, and keep it."""
        charge = Charge(key, concurrency_quota(1, lease=lease_us / SECOND_US), 1, f"lease-{key}")
        taken = await self.store.acquire([charge])
        assert taken.spent
        policy = Policy("c", (charge.quota,))
        decision = replace(
            ALLOWED, results=(PolicyResult("c", Mode.ENFORCE, Outcome.ALLOWED, (), ()),)
        )
        plan = Plan((PolicyPlan(policy, Mode.ENFORCE, 0, 1),), (charge,), "caller", has_leases=True)
        held = Reservation(decision, plan, taken.store_now_us, self.store.adjust)
        self.renewer.track(held)
        return held

    async def is_held(self, key: str = "k") -> bool:
        """Tell whether somebody else would be refused."""
        charge = Charge(key, concurrency_quota(1), 1, "other")
        return not (await self.store.memory.acquire([charge], commit=False)).statuses[0].allowed


@asynccontextmanager
async def renewer_bench() -> AsyncIterator[RenewerBench]:
    """Return a keeper that is closed in the end, and leaves no task behind."""
    before = asyncio.all_tasks()
    room = RenewerBench()
    yield room
    await room.renewer.aclose()
    assert asyncio.all_tasks() <= before


async def test_a_lease_is_renewed_while_it_is_held() -> None:
    """A request may last for many times its lease: it is renewed three times in each."""
    async with renewer_bench() as room:
        held = await room.track()
        for renewal in range(1, 10):
            await room.pauses.wait_for_calls(renewal)
            room.clock.advance(10)
            room.pauses.finish()
            await room.store.wait_until_done("adjust", renewal)
            assert await room.is_held()
        assert set(room.pauses.requested.entries) == {10}
        await held.release()
        assert not await room.is_held()


async def test_a_lease_given_back_is_not_renewed() -> None:
    """After its release a lease is not renewed, and others are as before."""
    async with renewer_bench() as room:
        held, other = await room.track(), await room.track("other")
        await room.pauses.wait_for_calls(1)
        await held.release()
        room.pauses.finish()
        await room.pauses.wait_for_calls(2)
        assert [each.key for each in room.store.adjustments] == ["k", "other"]
        assert not await room.is_held()
        await other.release()


async def test_the_keeper_rests_when_nothing_is_held_and_works_again() -> None:
    """Without a lease no task runs; the next lease starts it again."""
    async with renewer_bench() as room:
        resting = asyncio.all_tasks()
        for turn in (1, 2):
            held = await room.track()
            await room.pauses.wait_for_calls(turn)
            (task,) = asyncio.all_tasks() - resting
            await held.release()
            room.pauses.finish()
            await asyncio.wait({task})


async def test_an_owner_that_is_gone_loses_its_lease() -> None:
    """A lease that nobody renews ends by itself, a lease's time after the last renewal."""
    async with renewer_bench() as room:
        await room.track()
        await room.renewer.aclose()
        room.clock.us += LEASE_US - 1
        assert await room.is_held()
        room.clock.us += 1
        assert not await room.is_held()


async def test_a_lease_that_nobody_can_give_back_is_not_renewed() -> None:
    """A reservation that is dropped, as `check` does, loses its lease as a dead owner does."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        assert (await bench.limiter.check("c", principal="ann")).allowed
        assert await bench.remaining("c") == 0
        bench.clock.us += LEASE_US
        assert await bench.remaining("c") == 1
    async with renewer_bench() as room:
        resting = asyncio.all_tasks()
        held = await room.track()
        await room.pauses.wait_for_calls(1)
        (task,) = asyncio.all_tasks() - resting
        del held
        room.pauses.finish()
        await asyncio.wait({task}, timeout=1)
        assert room.store.adjustments == []


async def test_a_short_lease_does_not_wait_for_a_long_one() -> None:
    """A lease of a second, taken after one of 30, is renewed within the second."""
    async with renewer_bench() as room:
        long = await room.track("long")
        await room.pauses.wait_for_calls(1)
        short = await room.track("short", lease_us=900_000)
        await room.pauses.wait_for_calls(2)
        assert room.pauses.requested.entries == [10, 0.3]
        room.clock.advance(0.6)
        room.pauses.finish(1)
        await room.store.wait_until_done("adjust")
        room.clock.advance(0.6)
        assert await room.is_held("short")
        await long.release()
        await short.release()


async def test_a_renewal_that_comes_too_late_does_not_bring_a_lease_back() -> None:
    """A lease that is given back while its renewal is under way is not held afterwards."""
    async with renewer_bench() as room:
        gone, stays = await room.track("gone"), await room.track("stays")
        await room.pauses.wait_for_calls(1)
        renewal = room.store.hold("adjust")
        room.pauses.finish()
        await renewal.wait()
        await gone.release()
        renewal.released.set()
        await room.pauses.wait_for_calls(2)
        assert not await room.is_held("gone")
        assert await room.is_held("stays")
        await stays.release()


async def test_a_keeper_is_closed_twice() -> None:
    """Closing works before the first lease, while one is held, and again."""
    async with renewer_bench() as room:
        await room.renewer.aclose()
        await room.track()
        await room.renewer.aclose()
        await room.renewer.aclose()


async def test_a_request_holds_its_lease_until_it_ends() -> None:
    """Of two places two requests have one each; the third comes in when one has gone."""
    async with Bench(concurrency_policy("c", 2)) as bench:
        async with await bench.limiter.reserve("c", principal="ann") as first:
            async with await bench.limiter.reserve("c", principal="ann") as second:
                assert first.decision.allowed
                assert second.decision.allowed
                refused = await bench.limiter.reserve("c", principal="ann")
                assert not refused.decision.allowed
                assert not refused.leases
            async with await bench.limiter.reserve("c", principal="ann") as third:
                assert third.decision.allowed
        assert await bench.remaining("c") == 2


async def test_a_request_that_fails_gives_its_lease_back() -> None:
    """An error in the work ends the lease as the work's success does."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        with pytest.raises(RuntimeError):
            async with await bench.limiter.reserve("c", principal="ann"):
                raise RuntimeError
        assert await bench.remaining("c") == 1


@pytest.mark.parametrize("late", [False, True])
async def test_a_caller_cancelled_while_the_store_answers_leaves_no_lease(late: bool) -> None:  # noqa: FBT001 - a case
    """A client that goes away before or after the store has decided holds no place."""
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


async def test_a_caller_cancelled_before_a_refusal_gives_nothing_back() -> None:
    """A client that goes away before it is refused has no lease to end."""
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


async def test_a_caller_cancelled_while_the_store_goes_away_is_forgotten() -> None:
    """A call that fails after its caller has gone is told of, and leaves nothing behind."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        hold = bench.store.hold("acquire", error=timeout_error())
        async with running(bench.limiter.reserve("c", principal="ann")) as request:
            await hold.wait()
            request.cancel()
            hold.released.set()
        assert bench.store.count("adjust") == 0


async def test_closing_waits_for_the_leases_that_nobody_waits_for() -> None:
    """A lease whose owner went away is given back before the limiter is closed."""
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


async def test_a_caller_cancelled_while_it_gives_back_still_does() -> None:
    """A release or refund that has begun is finished, though its caller is cancelled meanwhile."""
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


async def test_local_leases_are_renewed_as_well() -> None:
    """While the store is away a long request keeps its place in the local share."""
    before = asyncio.all_tasks()
    clock, pauses = ManualClock(), ManualSleep()
    local = MemoryStore(clock.monotonic_us)
    fallback = Fallback(local, sleep=pauses)
    plans = [make_plan([(concurrency_policy("c", 2), 1)], Subject(), KeyScheme()) for _ in range(2)]
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
