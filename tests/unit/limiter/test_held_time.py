"""Waits of concurrency limits: estimated from how long requests hold their units."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import BucketStatus, Decision
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.held_time import MAX_POLICIES, HeldTimes
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.store_replies import AcquireResult
from support.clock import ManualClock
from support.limiter import Bench, concurrency_policy, rate_policy, timeout_error


def status(decision: Decision) -> BucketStatus:
    """Return the status of the first limit."""
    found = decision.results[0].statuses[0]
    assert found is not None
    return found


async def hold(bench: Bench, seconds: float, *, times: int = 1) -> None:
    """Make requests that hold a unit of policy `c` for this long, one after the other."""
    for _ in range(times):
        async with await bench.limiter.reserve("c", principal="ann"):
            bench.clock.advance(seconds)


async def test_retry_time_follows_how_long_units_are_held() -> None:
    """Of requests that take 0.3 s, the next one is soon admitted; the lease is 30 s."""
    async with Bench(concurrency_policy("c", 1)) as bench, AsyncExitStack() as held:
        await hold(bench, 0.3)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert not denied.allowed
        assert denied.retry_after == pytest.approx(0.3, rel=0.01)
        assert status(denied).next_unit_after_us == denied.retry_after_us
        assert status(denied).reset_after_us == denied.retry_after_us


async def test_estimate_is_shared_by_the_callers_of_a_policy() -> None:
    """The time is a property of the work, not of the caller."""
    async with Bench(concurrency_policy("c", 1)) as bench, AsyncExitStack() as held:
        await hold(bench, 2)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="bob"))
        denied = (await bench.limiter.reserve("c", principal="bob")).decision
        assert denied.retry_after == pytest.approx(2, rel=0.01)


async def test_retry_time_of_many_units_is_shorter() -> None:
    """Of 10 units that are held for 20 s each, one is free after 2 s, and 5 after about 13 s."""
    async with Bench(concurrency_policy("c", 10)) as bench, AsyncExitStack() as held:
        await hold(bench, 20)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann", cost=10))
        one = (await bench.limiter.reserve("c", principal="ann")).decision
        five = (await bench.limiter.reserve("c", principal="ann", cost=5)).decision
        assert one.retry_after == pytest.approx(20 / 10, rel=0.02)
        harmonic = sum(1 / units for units in range(6, 11))
        assert five.retry_after == pytest.approx(20 * harmonic, rel=0.02)
        assert status(five).next_unit_after_us == one.retry_after_us
        assert five.retry_after_us < status(five).reset_after_us <= 30 * SECOND_US


async def test_estimate_is_never_above_the_lease() -> None:
    """However long requests last, a unit may be free when its lease expires."""
    async with Bench(concurrency_policy("c", 1, lease=3)) as bench, AsyncExitStack() as held:
        async with await bench.limiter.reserve("c", principal="ann"):
            bench.clock.advance(3_000)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        bench.clock.advance(1)
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert denied.retry_after == 2


async def test_before_the_first_release_the_age_of_the_lease_counts() -> None:
    """Work that has lasted for a second is expected to last for another one."""
    async with Bench(concurrency_policy("c", 1)) as bench, AsyncExitStack() as held:
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        first = (await bench.limiter.reserve("c", principal="ann")).decision
        assert first.retry_after_us == 1
        bench.clock.advance(1)
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert denied.retry_after == pytest.approx(1, rel=0.01)


async def test_estimate_follows_a_change() -> None:
    """After requests became slower, an eighth of the difference counts with each of them."""
    async with Bench(concurrency_policy("c", 1)) as bench, AsyncExitStack() as held:
        await hold(bench, 1)
        await hold(bench, 9)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert denied.retry_after == pytest.approx(2, rel=0.1)
        await held.aclose()
        await hold(bench, 9, times=40)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert denied.retry_after == pytest.approx(9, rel=0.11)


async def test_store_with_more_units_than_the_limit_has_no_waits() -> None:
    """A reply that no script sends raises nothing in a request."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        acquire = bench.store.acquire

        async def generous(charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
            result = await acquire(charges, dry_run=dry_run)
            return replace(result, statuses=(replace(result.statuses[0], remaining=7),))

        bench.store.acquire = generous  # type: ignore[method-assign]
        async with await bench.limiter.reserve("c", principal="ann") as held:
            assert status(held.decision).remaining == 7


async def test_only_waits_of_leases_are_estimated() -> None:
    """The wait of a rate limit that is decided together with them stays exact."""
    policies = concurrency_policy("c", 2), rate_policy("r", "1/minute")
    async with Bench(*policies) as bench, AsyncExitStack() as held:
        await hold(bench, 0.3)
        await held.enter_async_context(await bench.limiter.reserve("c", "r", principal="ann"))
        denied = (await bench.limiter.reserve("c", "r", principal="ann")).decision
        assert denied.denied_by == ("r",)
        assert denied.retry_after == 60
        assert status(denied).next_unit_after_us < SECOND_US


async def test_peek_returns_the_same_estimate() -> None:
    """`fleetlimit explain` and the admin port show the wait that a request would be sent."""
    async with Bench(concurrency_policy("c", 1)) as bench, AsyncExitStack() as held:
        await hold(bench, 0.3)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert await bench.limiter.peek("c", principal="ann") == denied


async def test_local_share_uses_the_same_estimate() -> None:
    """Requests before the outage count in the fallback, too."""
    policy = concurrency_policy("c", 1, on_store_error="local")
    async with Bench(policy, failures=1) as bench, AsyncExitStack() as held:
        await hold(bench, 1)
        bench.store.down = timeout_error()
        await hold(bench, 9)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert denied.retry_after == pytest.approx(2, rel=0.1)


async def test_dropped_reservation_is_recorded() -> None:
    """A request that never released its units held them until it was dropped."""
    async with Bench(concurrency_policy("c", 1)) as bench, AsyncExitStack() as held:
        dropped = await bench.limiter.reserve("c", principal="ann")
        bench.clock.advance(4)
        del dropped
        await bench.store.wait_until_done("adjust")
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        denied = (await bench.limiter.reserve("c", principal="ann")).decision
        assert denied.retry_after == pytest.approx(4, rel=0.01)


async def test_replicas_without_requests_of_their_own_use_the_age() -> None:
    """A replica that only denies has seen no release; the store has the age of the lease."""
    async with Bench(concurrency_policy("c", 1)) as bench, AsyncExitStack() as held:
        other = Limiter(bench.store, local=bench.local, clock=bench.clock, replica="other")
        other.active_policies.replace(bench.limiter.active_policies.current)
        await held.enter_async_context(await bench.limiter.reserve("c", principal="ann"))
        bench.clock.advance(0.5)
        denied = (await other.reserve("c", principal="ann")).decision
        assert denied.retry_after == pytest.approx(0.5, rel=0.01)


def test_number_of_policies_is_bounded() -> None:
    """The oldest policy is dropped."""
    clock = ManualClock()
    times = HeldTimes(clock)
    for number in range(MAX_POLICIES + 10):
        times.start([f"policy{number}"])()
    assert len(times) == MAX_POLICIES
