"""Prefetch over a real store: few calls, no overshoot, and the loss of a replica."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.store import RedisStore
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import rate_policy, remaining
from support.stores import LONG_TIMEOUTS

GLOBAL = (KeyPart(KeyKind.GLOBAL),)
LIFE_US = 360_000_000
POLICIES = (
    rate_policy("bucket", "1000/hour", key=GLOBAL, prefetch=0.1),
    rate_policy(
        "window",
        rate_quota("1000/hour", algorithm=Algorithm.FIXED_WINDOW),
        key=GLOBAL,
        prefetch=0.1,
    ),
    rate_policy("both", "2000/hour", rate_quota("1000/minute", cost=2), key=GLOBAL, prefetch=0.2),
)


@pytest.fixture
async def fleet(valkey: EmbeddedValkey) -> AsyncIterator[Fleet]:
    """Return two replicas, each with its own connection to an empty store."""
    clock = ManualClock()
    made = Fleet(
        clock,
        lambda: RedisStore(
            valkey.url, KeyScheme(), timeouts=LONG_TIMEOUTS, now_us=clock.monotonic_us
        ),
        *POLICIES,
        replicas=("a", "b"),
    )
    for limiter in made.members.values():
        await limiter.store.open()
    await _client(made).flushall()
    yield made
    await made.aclose()


def _client(fleet: Fleet) -> Any:
    return fleet["a"].store.client  # type: ignore[attr-defined]  # a RedisStore


async def calls(fleet: Fleet) -> int:
    """Return the number of script calls that the server has run."""
    stats = await _client(fleet).info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def left(fleet: Fleet, policy: str) -> int:
    """Return the remaining units of the policy's first limit."""
    decision = await fleet["a"].peek(policy, principal="ann", cost=0)
    return remaining(decision.results[0].limits[0])


@pytest.mark.parametrize(
    ("policy", "limit", "made"), [("bucket", 1_000, 71), ("window", 1_000, 71), ("both", 500, 66)]
)
async def test_prefetch_saves_calls_and_never_overshoots(
    fleet: Fleet, policy: str, limit: int, made: int
) -> None:
    """Of 1,200 checks the whole limit passes, and only the last units need a call each."""
    before = await calls(fleet)
    passed = 0
    # One after the other, so that no two calls share a pipeline.
    for _ in range(6):
        for name in ("a", "b"):
            passed += await fleet.spend(name, policy, "ann", times=100)
    assert passed == limit
    assert await calls(fleet) - before == made
    await fleet.advance_until_compared()
    assert (fleet.overshoots(), fleet.overshoot(policy)) == ([], 0)


@pytest.mark.parametrize("policy", ["bucket", "window"])
async def test_killed_replica_loses_at_most_one_prefetch(fleet: Fleet, policy: str) -> None:
    """The units of its prefetch are lost until the bucket refills or the window ends."""
    held = await left(fleet, policy)
    passed = await fleet.spend("b", policy, "ann", times=150)
    lost = held - passed - await left(fleet, policy)
    dead = fleet.members.pop("b")
    assert 0 < lost <= 100
    assert await fleet.spend("a", policy, "ann", times=1_000) == held - passed - lost
    fleet.clock.advance_us(LIFE_US)
    gained = 100 if policy == "bucket" else 0
    assert await fleet.spend("a", policy, "ann", times=1_000) == gained
    await dead.aclose()
