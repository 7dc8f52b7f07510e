"""Limits of callers from a provider: which policies are asked for, waits, and the end."""

import asyncio
from typing import Any

import pytest

from fleetlimit import Fleetlimit, Limit, Match, Policy, PolicySet, Principal
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.subject import Subject
from fleetlimit.limiter.audit.sample import MAX_OWN_LIMITS, UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.plan import PolicyCost, make_plan
from fleetlimit.limiter.provided_limits import require_limits_provider
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.testing import ManualClock

ANN = Principal("ann")
POLICY = Policy("api", "3/hour", match=Match())


def test_provider_without_a_signature_is_accepted() -> None:
    """Python knows no signature of some built-in functions."""
    builtin: Any = max
    require_limits_provider(builtin)


async def test_policy_that_is_off_is_not_asked_for() -> None:
    """Nor is a policy that exempts the caller by a function, or a caller without a credential."""
    off = Policy("off", "1/hour", match=Match(), mode="off")
    calls = []

    def limits(_principal: Principal, policy: str) -> None:
        calls.append(policy)

    async with Fleetlimit(policies=PolicySet([off, POLICY]), limits=limits) as fleetlimit:
        limiter = fleetlimit.limiter
        await limiter.check("off", principal=ANN)
        await limiter.admit([PolicyCost(POLICY, 1, exempt=True)], Subject(principal=ANN))
        await limiter.check("api")
        assert limiter.provided_limits is not None
        costs = [PolicyCost(POLICY, 1)]
        assert limiter.provided_limits.apply_known(costs, Subject()) is costs
        assert limiter.provided_limits.apply_known(costs, Subject(principal=ANN)) is costs
    assert calls == []


async def test_check_that_waits_waits_for_the_own_limit() -> None:
    """The policy's own limits would admit it only in an hour."""
    own = Limit.rate("100/second", burst=1)

    def limits(_principal: Principal, _policy: str) -> Limit:
        return own

    policy = Policy("api", "1/hour", match=Match())
    async with Fleetlimit(policies=PolicySet([policy]), limits=limits) as fleetlimit:
        for _ in range(3):
            reservation = await fleetlimit.limiter.acquire(
                lambda: [PolicyCost(policy, 1)], Subject(principal=ANN), timeout_us=30_000_000
            )
            assert reservation.decision.allowed
            assert reservation.decision.results[0].is_own


async def test_close_cancels_a_call_in_flight() -> None:
    """A check that waits for it is cancelled, too."""
    started = asyncio.Event()

    async def limits(_principal: Principal, _policy: str) -> None:
        started.set()
        await asyncio.Event().wait()

    async with Fleetlimit(policies=PolicySet([POLICY]), limits=limits) as fleetlimit:
        check = asyncio.ensure_future(fleetlimit.limiter.check("api", principal=ANN))
        await started.wait()
    with pytest.raises(asyncio.CancelledError):
        await check


async def test_rollout_percentile_follows_a_given_key() -> None:
    """A key that code gives decides whether the policy is enforced for it."""
    policy = Policy("api", "1/hour", match=Match(), enforce_percent=50)
    scheme = KeyScheme()
    percentiles = {scheme.rollout_percentile(policy, Subject(key=str(each))) for each in range(50)}
    assert len(percentiles) > 10


class OwnLimitSample:
    """A sample of callers with own limits under one policy, on a store in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.monotonic_us)
        self.sample = UsageSample(4, BucketEvents())

    async def spend(self, units: int, caller: str = "ann", *, is_own: bool = True) -> None:
        """Spend one unit of a limit of this many units per hour."""
        quotas = Policy("p", f"{units}/hour").limits
        cost = PolicyCost(Policy("api", quotas), 1, own_quotas=quotas if is_own else None)
        plan = make_plan([cost], Subject(principal=Principal(caller)), KeyScheme())
        reply: AcquireResult = await self.store.acquire(plan.charges)
        self.sample.record(plan.charges, reply)

    def limits(self) -> set[str]:
        """Return the limits of the report."""
        text = self.sample.snapshot()
        return {f"{each}/hour" for each in range(200) if f"api token_bucket {each} " in text}


async def test_audit_keeps_the_same_own_limits_in_every_order() -> None:
    """All replicas audit the limits with the smallest ranks, and the limits of the policy."""
    forward, backward = OwnLimitSample(), OwnLimitSample()
    for units in range(1, 100):
        await forward.spend(units, f"caller{units}")
        await backward.spend(100 - units, f"caller{100 - units}")
    assert len(forward.limits()) == MAX_OWN_LIMITS
    assert forward.limits() == backward.limits()
    await forward.spend(150, "bob", is_own=False)
    assert "150/hour" in forward.limits()
    for units in range(1, 100):
        await forward.spend(units, f"caller{units}")
    assert len(forward.limits()) == MAX_OWN_LIMITS + 1


async def test_audit_forgets_own_limits_of_idle_callers() -> None:
    """Their places are free for others."""
    bench = OwnLimitSample()
    for units in range(1, 100):
        await bench.spend(units, f"caller{units}")
    await bench.spend(150, is_own=False)
    bench.sample.snapshot()
    bench.sample.acknowledge(bench.clock.monotonic_us() + 400_000_000)
    assert bench.limits() == set()
    await bench.spend(7)
    assert bench.limits() == {"7/hour"}


async def test_call_that_was_invalidated_ends_with_the_limiter() -> None:
    """Its answer is not used, but it must not run on after the end."""
    ended = asyncio.Event()

    async def limits(_principal: Principal, _policy: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    fleetlimit = Fleetlimit(policies=PolicySet([POLICY]), limits=limits)
    async with fleetlimit:
        check = asyncio.ensure_future(fleetlimit.check("api", principal=ANN))
        await asyncio.sleep(0)
        fleetlimit.invalidate_limits()
        check.cancel()
        await asyncio.wait({check})
        assert not ended.is_set()
    assert ended.is_set()
