"""The denial cache denies only what the store would deny."""

import random
from collections.abc import Iterator

import pytest

from fleetlimit.core.decision import Source
from fleetlimit.core.quota import Algorithm
from fleetlimit.limiter.ports import Store
from fleetlimit.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import rate_policy
from support.shortcuts import Shortcut, disable
from support.stores import quota_of

CHECKS = 120
WAITS_US = (0, 0, 1, 50_000, 900_000, 4_000_000)
# Concurrency denials are not cached, because a lease may end at any time.
POLICIES = [
    rate_policy(each, quota_of(each, 8)) for each in Algorithm if each is not Algorithm.CONCURRENCY
]
POLICIES.append(rate_policy("two", *(quota for policy in POLICIES[:2] for quota in policy.limits)))
WITHOUT = {"cached": (), "uncached": (Shortcut.DENIAL_CACHE,)}


@pytest.fixture(params=WITHOUT)
def cached(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Return whether the denial cache is enabled in this test."""
    with pytest.MonkeyPatch.context() as patch:
        disable(WITHOUT[request.param], patch)
        yield request.param == "cached"


def uncached_replica(clock: ManualClock) -> Fleet:
    """Return a single replica without a denial cache, with a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        disable([Shortcut.DENIAL_CACHE], patch)
        return Fleet(clock, lambda: MemoryStore(clock.monotonic_us), *POLICIES, replicas=["alone"])


@pytest.mark.parametrize("policy", [policy.name for policy in POLICIES])
async def test_cached_replicas_decide_like_one_uncached_replica(
    store: Store, clock: ManualClock, policy: str, *, cached: bool
) -> None:
    """Two replicas with any costs and waits decide each check like a single uncached replica."""
    replicas = Fleet(clock, lambda: store, *POLICIES, replicas=["a", "b"])
    alone = uncached_replica(clock)["alone"]
    chance = random.Random(policy)  # noqa: S311 - a schedule, the same each time
    sources = set()
    wait_us = 0
    for _ in range(CHECKS):
        clock.advance_us(chance.choice([*WAITS_US, wait_us]))
        limiter, cost = replicas[chance.choice("ab")], chance.choice([1, 1, 2, 5])
        expected = await alone.check(policy, principal="ann", cost=cost)
        found = await limiter.check(policy, principal="ann", cost=cost)
        assert found.allowed is expected.allowed
        sources.add(found.source)
        wait_us = expected.retry_after_us
    assert sources == ({Source.STORE, Source.CACHE} if cached else {Source.STORE})
