"""Property of prefetching: replicas together never admit more than the limit."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, target
from hypothesis import strategies as st

from fleetlimit.core.policy import Policy
from fleetlimit.core.prefetch import prefetch_terms
from fleetlimit.core.quota import MILLISECOND_US, Algorithm, Quota, rate_quota
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.stores.memory import MemoryStore
from support.admitted import Admitted, assert_fixed_window, assert_token_bucket
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import remaining

NAMES = ("a", "b", "c")
MAX_UNITS = 30
WIDE = Policy("wide", (rate_quota("1000000/day"),))


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a replica after a pause.

    Args:
        lives: Pause, in lifetimes of a prefetch.
        more_us: Microseconds added to the pause.
        name: The replica.
        deed: The action.
        times: Number of repetitions.
        cost: Cost of each check.
    """

    lives: float
    more_us: int
    name: str
    deed: str
    times: int
    cost: int


def quotas(algorithm: Algorithm) -> st.SearchStrategy[Quota]:
    def build(limit: int, burst: int, period_ms: int) -> Quota:
        burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
        return Quota(algorithm, limit, period_ms * MILLISECOND_US, burst)

    # A prefetch of a minute is refunded in its lifetime; one of a hundredth has refilled by then.
    sizes = st.integers(8, MAX_UNITS)
    return st.builds(build, sizes, sizes, st.sampled_from([100, 60_000]))


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([0, 0, 0.5, 1, 1, 4]),
        st.sampled_from([-1, 0]),
        st.sampled_from(NAMES),
        st.sampled_from([*["check"] * 6, "beat", "leave", "joint"]),
        st.sampled_from([1, 2, 4, 8, MAX_UNITS]),
        st.sampled_from([0, 1, 1, 1, 1, 3]),
    ),
    min_size=5,
    max_size=25,
)


def use_largest_prefetches(limiter: Limiter) -> None:
    """Let each prefetch have the largest size: the bound must not depend on it."""
    for bucket in limiter._gateway._prefetcher._buckets.values():
        bucket._next_size, bucket._mono_scarce_until_us = bucket.terms.max_cost, 0


async def run(quota: Quota, fraction: float, steps: list[Step]) -> Admitted:
    """Run a fleet, and return the admitted units and their times."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    policy = Policy("exports", (quota,), prefetch=fraction)
    fleet = Fleet(clock, lambda: SharedStore(store), policy, WIDE, replicas=NAMES)
    admitted: Admitted = []
    held, life_us = policy.quotas_for("")[0].burst, prefetch_terms((quota,), fraction).lifetime_us
    for step in steps:
        clock.advance_us(max(0, round(step.lives * life_us) + step.more_us))
        if step.deed == "beat":
            await fleet[step.name]._gateway._prefetcher.reclaim()
        elif step.deed == "leave":
            await fleet[step.name].aclose()
            fleet.join(step.name)
        else:
            policies = ["exports", "wide"] if step.deed == "joint" else ["exports"]
            cost = min(step.cost, held)
            for _ in range(step.times):
                use_largest_prefetches(fleet[step.name])
                decision = await fleet[step.name].check(*policies, principal="ann", cost=cost)
                assert 0 <= remaining(decision.results[0].limits[0]) <= held
                if not decision.allowed:
                    break
                admitted.append((clock.monotonic_us(), cost))
    await fleet.aclose()
    return admitted


class SharedStore(MemoryStore):
    """A connection to a store that stays open when one replica closes it."""

    def __init__(self, store: MemoryStore) -> None:
        self.__dict__ = store.__dict__

    async def aclose(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("algorithm", "keeps"),
    [
        (Algorithm.TOKEN_BUCKET, assert_token_bucket),
        (Algorithm.FIXED_WINDOW, assert_fixed_window),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@given(data=st.data())
def test_prefetch_keeps_the_limit_in_every_interval(
    algorithm: Algorithm, keeps: Callable[[Quota, Admitted], None], data: st.DataObject
) -> None:
    """Replicas check, leave, rejoin and reclaim, and never admit more."""
    quota = data.draw(quotas(algorithm))
    fraction = data.draw(st.sampled_from([0.5, 0.3, 0.125]))
    admitted = asyncio.run(run(quota, fraction, data.draw(STEPS)))
    # Guide Hypothesis towards schedules that nearly admit too much.
    target(most_at_once(quota, admitted))
    keeps(quota, admitted)


def most_at_once(quota: Quota, admitted: Admitted) -> float:
    """Return the most units admitted in an interval above the units that it refills."""
    backlog, last_us, most = 0.0, 0, 0.0
    for now_us, units in admitted:
        backlog = max(0, backlog - (now_us - last_us) * quota.limit / quota.period_us) + units
        last_us, most = now_us, max(most, backlog / quota.burst)
    return most
