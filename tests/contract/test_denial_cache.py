"""What is refused without asking the store would have been refused by it."""

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
# Leases are not remembered: they may end at any time.
POLICIES = [
    rate_policy(each, quota_of(each, 8)) for each in Algorithm if each is not Algorithm.CONCURRENCY
]
POLICIES.append(rate_policy("two", *(quota for policy in POLICIES[:2] for quota in policy.limits)))
WITHOUT = {"remembered": (), "asked_again": (Shortcut.DENIAL_CACHE,)}


@pytest.fixture(params=WITHOUT)
def remembered(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Return whether denials are remembered in this test."""
    with pytest.MonkeyPatch.context() as patch:
        disable(WITHOUT[request.param], patch)
        yield request.param == "remembered"


def one_who_asks_always(clock: ManualClock) -> Fleet:
    """Return a replica that has everything for itself, and remembers nothing."""
    with pytest.MonkeyPatch.context() as patch:
        disable([Shortcut.DENIAL_CACHE], patch)
        return Fleet(clock, lambda: MemoryStore(clock), *POLICIES, replicas=["alone"])


@pytest.mark.parametrize("policy", [policy.name for policy in POLICIES])
async def test_replicas_let_in_what_one_would_that_asks_always(
    store: Store, clock: ManualClock, policy: str, *, remembered: bool
) -> None:
    """Check by check, at two replicas, at any cost, with waits that are exact and that are not."""
    replicas = Fleet(clock, lambda: store, *POLICIES, replicas=["a", "b"])
    alone = one_who_asks_always(clock)["alone"]
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
    assert sources == ({Source.STORE, Source.CACHE} if remembered else {Source.STORE})
