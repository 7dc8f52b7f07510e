"""Prefetches of larger costs and of several policies, and what a replica holds while it denies."""

import asyncio
from collections.abc import Sequence

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.limiter.plan import PolicyCost, make_plan
from fleetlimit.limiter.store_replies import AcquireResult
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import Bench, rate_policy
from support.prefetch import ANN, KeptStore, check_times, start_checks

KEYS = KeyScheme()


class BoundedStore(KeptStore):
    """Store that fails after many calls, where an endless loop would hang the test."""

    calls = 0

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Count the call."""
        self.calls += 1
        assert self.calls < 100
        return await super().acquire(charges, dry_run=dry_run)


async def test_refill_ends_after_units_came_back_while_they_seemed_scarce() -> None:
    """Units for later checks are denied where the waiting checks fit; those are acquired alone."""
    clock = ManualClock()
    store = BoundedStore(clock.monotonic_us)
    policy = rate_policy("p", "100/minute", prefetch=0.5)
    fleet = Fleet(clock, lambda: store, policy, replicas=("a", "b"))
    first, second = fleet.members.values()

    await first.check("p", principal="ann", cost=16)
    reservation = await second.reserve("p", principal="ann", cost=84)
    assert not (await first.check("p", principal="ann")).allowed
    await reservation.commit(5)
    clock.advance(1.1)
    assert (await first.check("p", principal="ann")).allowed
    clock.advance(3)
    waiting = [first.check("p", principal="ann", cost=cost) for cost in (60, 50)]
    decisions = await asyncio.gather(*waiting)

    assert [each.allowed for each in decisions] == [True, False]
    await fleet.aclose()


@pytest.mark.parametrize(
    ("policy", "cost", "admitted"),
    [
        (rate_policy("p", "100/minute", prefetch=0.1), 6, 16),
        (rate_policy("p", "1000/minute", prefetch=0.1), 51, 19),
        (rate_policy("p", "10000/minute", prefetch="auto"), 320, 31),
        (rate_policy("p", "10000/minute", prefetch="auto"), 400, 25),
    ],
)
async def test_replica_holds_no_remainders(policy: Policy, cost: int, admitted: int) -> None:
    """One replica admits all that the limit has room for, at any cost."""
    async with Bench(policy) as bench:
        decisions = await check_times(bench, admitted + 3, cost=cost)
        assert [each.allowed for each in decisions] == [True] * admitted + [False] * 3


async def test_all_waiting_checks_that_fit_are_admitted() -> None:
    """A prefetch for waiting checks may be larger than one for later checks."""
    async with Bench(rate_policy("p", "100/minute", prefetch=0.5)) as bench:
        await check_times(bench, 1, cost=20)
        decisions = await asyncio.gather(*start_checks(bench, 30, 31))
        assert [each.allowed for each in decisions] == [True, True]


@pytest.mark.parametrize(
    ("policies", "is_estimate", "prefetched"),
    [
        ([rate_policy("a", "100/minute", prefetch="auto")], False, True),
        # The bucket refunds few units that are spent ahead.
        ([rate_policy("a", "100/minute", prefetch="auto")], True, False),
        ([rate_policy("a", "100/minute", prefetch="auto", count="failure")], False, False),
        ([rate_policy("a", "100/minute", prefetch=0.1, count="failure")], False, True),
        (
            [rate_policy(name, "100/minute", prefetch="auto") for name in ("a", "b")],
            False,
            True,
        ),
        # Each caller would hold units of the bucket that all share.
        (
            [
                rate_policy("a", "100/minute", prefetch="auto"),
                rate_policy("b", "100/minute", prefetch=0.5, key=(KeyPart(KeyKind.GLOBAL),)),
            ],
            False,
            False,
        ),
    ],
)
def test_plan_is_prefetched(
    policies: Sequence[Policy], *, is_estimate: bool, prefetched: bool
) -> None:
    """Policies of one key are, if all units of a request stay spent."""
    costs = [PolicyCost(each, 1, is_estimate=is_estimate) for each in policies]
    assert (make_plan(costs, ANN, KEYS).prefetch is not None) == prefetched
