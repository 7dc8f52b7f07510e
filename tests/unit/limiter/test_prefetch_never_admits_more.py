"""Property of prefetching: replicas together never admit more than the limit."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, target
from hypothesis import strategies as st

from fleetlimit.core.policy import Policy
from fleetlimit.core.prefetch import PrefetchSpec
from fleetlimit.core.quota import MILLISECOND_US, Algorithm, Quota, rate_quota
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.prefetch import bucket as bucket_module
from fleetlimit.stores.memory import MemoryStore
from support.admitted import Admitted, assert_fixed_window, assert_token_bucket
from support.audit import Fleet
from support.calendars import calendar_quotas
from support.clock import ManualClock
from support.limiter import remaining

NAMES = ("a", "b", "c")
MAX_UNITS = 30
AUTO_FACTOR = 8
"""A sixteenth of limits that are this much larger is a prefetch of several requests."""


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


def quotas(algorithm: Algorithm, factor: int = 1) -> st.SearchStrategy[Quota]:
    def build(limit: int, burst: int, period_ms: int) -> Quota:
        limit, burst = factor * limit, factor * burst
        burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
        return Quota(algorithm, limit, period_ms * MILLISECOND_US, burst)

    # A prefetch of a minute is refunded in its lifetime; one of a hundredth has refilled by then.
    sizes = st.integers(8, MAX_UNITS)
    found = st.builds(build, sizes, sizes, st.sampled_from([100, 60_000]))
    if algorithm is Algorithm.FIXED_WINDOW:
        return st.one_of(found, calendar_quotas(sizes.map(lambda size: factor * size)))
    return found


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


@pytest.fixture(scope="module", autouse=True)
def _longest_lifetimes() -> Iterator[None]:
    """Let each prefetch have the longest lifetime: the bound must not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_module, "MIN_LIFETIME_US", 10**15)
        yield


def use_largest_prefetches(limiter: Limiter) -> None:
    """Let each prefetch have the largest size: the bound must not depend on it."""
    for bucket in limiter._gateway._prefetcher._buckets.values():
        bucket._next_size, bucket._mono_scarce_until_us = bucket.terms.max_cost, 0


async def run(quota: Quota, prefetch: PrefetchSpec, steps: list[Step]) -> Admitted:
    """Run a fleet, and return the admitted units and their times."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    policy = Policy("exports", (quota,), prefetch=prefetch)
    # Prefetched together with the other policy.
    wide = Policy("wide", (rate_quota("1000000/day"),), prefetch=prefetch)
    fleet = Fleet(clock, lambda: SharedStore(store), policy, wide, replicas=NAMES)
    admitted: Admitted = []
    terms = policy.prefetch_terms("")
    assert terms is not None
    held, life_us = quota.burst, terms.lifetime_us
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
    prefetch: PrefetchSpec = data.draw(st.sampled_from([0.5, 0.3, 0.125, "auto"]))
    quota = data.draw(quotas(algorithm, AUTO_FACTOR if prefetch == "auto" else 1))
    admitted = asyncio.run(run(quota, prefetch, data.draw(STEPS)))
    # Guide Hypothesis towards schedules that nearly admit too much.
    target(most_at_once(quota, admitted))
    keeps(quota, admitted)


async def test_refund_of_a_prefetch_keeps_the_limit() -> None:
    """One replica leaves, and another one uses its prefetch at the end of its lifetime of 30 s."""
    quota = rate_quota("30/minute")
    steps = [
        Step(0, 0, "b", "check", 1, 1),
        Step(4, 0, "a", "check", 1, 1),
        # A prefetch of 15 units, of which 14 are refunded or refilled when the replica leaves.
        Step(0, 0, "a", "check", 1, 1),
        Step(0.5, 0, "b", "check", 1, 1),
        Step(0, 0, "a", "leave", 1, 1),
        Step(1, -1, "b", "check", 14, 1),
        Step(0, 0, "c", "check", 1, 1),
        Step(0, 0, "c", "check", MAX_UNITS, 1),
    ]
    assert_token_bucket(quota, await run(quota, 0.5, steps))


def most_at_once(quota: Quota, admitted: Admitted) -> float:
    """Return the most units admitted in an interval above the units that it refills."""
    backlog, last_us, most = 0.0, 0, 0.0
    for now_us, units in admitted:
        backlog = max(0, backlog - (now_us - last_us) * quota.limit / quota.period_us) + units
        last_us, most = now_us, max(most, backlog / quota.burst)
    return most
