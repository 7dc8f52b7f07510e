"""Audit over a real store: overshoot is 0 exactly while the store keeps the limits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.events import StoreFailed, StoreStateLost
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import rate_policy
from support.shortcuts import VARIANTS, disable
from support.stores import LONG_TIMEOUTS, quota_of

CALLERS = [f"caller{number}" for number in range(5)]
POLICIES = (
    rate_policy("bucket", "30/minute"),
    rate_policy("windows", quota_of(Algorithm.FIXED_WINDOW, 30)),
    rate_policy("both", "60/minute", quota_of(Algorithm.SLIDING_LOG, 30)),
    rate_policy("sliding", quota_of(Algorithm.SLIDING_WINDOW, 30, period_us=20 * SECOND_US)),
)
NAMES = [policy.name for policy in POLICIES]
StoreFactory = Callable[[ManualClock], RedisStore]
FleetFactory = Callable[[StoreFactory], Fleet]


class IndependentStore(RedisStore):
    """A store that decides on local state, so each replica counts for itself."""

    def __init__(self, url: str, keys: KeyScheme, clock: ManualClock) -> None:
        super().__init__(url, keys, timeouts=LONG_TIMEOUTS, now_us=clock.monotonic_us)
        self._own = MemoryStore(clock.monotonic_us)

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Decide on local state."""
        return await self._own.acquire(charges, dry_run=dry_run)


class AdmitAllStore(RedisStore):
    """A store that admits every charge and reports full buckets."""

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Admit the charges."""
        reply = await super().acquire(charges, dry_run=dry_run)
        statuses = (
            replace(status, allowed=True, remaining=charge.quota.burst, retry_after_us=0)
            for charge, status in zip(charges, reply.statuses, strict=True)
        )
        return AcquireResult(reply.store_now_us, tuple(statuses), spent=True)


@pytest.fixture
async def fleet_over() -> AsyncIterator[FleetFactory]:
    """Return a factory of fleets of three replicas, each with its own connection to the store."""
    made: list[Fleet] = []

    def make(store: StoreFactory) -> Fleet:
        clock = ManualClock()
        made.append(Fleet(clock, lambda: store(clock), *POLICIES))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.aclose()


def scheme() -> KeyScheme:
    """Return keys that no other test uses."""
    return KeyScheme(prefix="audited")


def redis_stores(url: str) -> StoreFactory:
    return lambda clock: RedisStore(
        url, scheme(), timeouts=LONG_TIMEOUTS, now_us=clock.monotonic_us
    )


async def load(fleet: Fleet, seconds: int) -> None:
    """Request more than the limits permit, at all replicas concurrently, once per second."""
    for _ in range(seconds):
        await asyncio.gather(
            *(
                fleet.spend(name, policy, caller)
                for caller in CALLERS
                for policy in NAMES
                for name in sorted(fleet.members)
            )
        )
        await fleet.advance(1)


def by_policy(fleet: Fleet) -> dict[str, int]:
    return {name: fleet.overshoot(name) for name in NAMES}


@pytest.fixture(params=VARIANTS)
def _variant(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turn off the shortcuts that the mode is without."""
    with pytest.MonkeyPatch.context() as patch:
        disable(VARIANTS[request.param], patch)
        yield


@pytest.mark.usefixtures("_variant")
@pytest.mark.parametrize("kind", ["valkey", "cluster"])
async def test_overshoot_is_zero_while_the_store_keeps_the_limits(
    fleet_over: FleetFactory, request: pytest.FixtureRequest, kind: str
) -> None:
    """Under load at three replicas, every policy has an overshoot of 0."""
    cluster = kind == "cluster"
    url = (
        request.getfixturevalue("cluster_url") if cluster else request.getfixturevalue("valkey").url
    )
    fleet = fleet_over(redis_stores(url))
    await fleet["a"].store.client.flushall()  # type: ignore[attr-defined]  # a RedisStore
    await load(fleet, 90)
    await fleet.advance_until_compared()
    assert by_policy(fleet) == dict.fromkeys(NAMES, 0)
    assert fleet.overshoots() == []
    assert [event for each in fleet.recorders.values() for event in each.of(StoreFailed)] == []
    for policy in NAMES:
        assert fleet.last_audit("a", policy).callers == len(CALLERS)
        assert fleet.total(policy, "intervals") >= len(CALLERS) * 90 // 5
        admitted, permitted = (fleet.total(policy, each) for each in ("admitted", "permitted"))
        # The load uses nearly all permitted units.
        assert permitted / 2 < admitted <= permitted


async def test_overshoot_is_reported_after_the_store_lost_its_state(
    fleet_over: FleetFactory, valkey: EmbeddedValkey
) -> None:
    """The reports in the store are lost too, but not the replicas' own records."""
    fleet = fleet_over(redis_stores(valkey.url))
    client = fleet["a"].store.client  # type: ignore[attr-defined]  # a RedisStore
    await client.flushall()
    await load(fleet, 30)
    assert by_policy(fleet) == dict.fromkeys(NAMES, 0)
    for limiter in fleet.members.values():
        await limiter.membership.heartbeat()
    await asyncio.gather(load(fleet, 5), client.flushall())
    await load(fleet, 20)
    await fleet.advance_until_compared()
    assert all(units > 0 for units in by_policy(fleet).values()), by_policy(fleet)
    # A window is admitted twice; a bucket too, less the error at the ends of audit intervals.
    assert by_policy(fleet)["windows"] == 30
    assert 30 - 5 <= by_policy(fleet)["bucket"] <= 30
    for limiter in fleet.members.values():
        await limiter.membership.heartbeat()
    assert all(each.of(StoreStateLost) for each in fleet.recorders.values())
    await fleet.advance(310)
    assert by_policy(fleet) == dict.fromkeys(NAMES, 0)


async def test_overshoot_of_a_store_without_shared_state_is_reported(
    fleet_over: FleetFactory, valkey: EmbeddedValkey
) -> None:
    """Three replicas that each keep the limit admit three times as much together."""
    fleet = fleet_over(lambda clock: IndependentStore(valkey.url, scheme(), clock))
    await load(fleet, 30)
    await fleet.advance_until_compared()
    assert all(units > 0 for units in by_policy(fleet).values()), by_policy(fleet)
    # All 90 requests of each caller in the first half of a minute were admitted.
    assert fleet.overshoot("windows") == 3 * 30 - 30


async def test_overshoot_of_a_store_that_admits_everything_is_reported(
    fleet_over: FleetFactory, valkey: EmbeddedValkey
) -> None:
    """Only admissions count, whatever the store reports as remaining."""
    fleet = fleet_over(
        lambda clock: AdmitAllStore(
            valkey.url, scheme(), timeouts=LONG_TIMEOUTS, now_us=clock.monotonic_us
        )
    )
    await load(fleet, 30)
    await fleet.advance_until_compared()
    assert all(units > 0 for units in by_policy(fleet).values()), by_policy(fleet)
    assert fleet.overshoot("windows") == 3 * 30 - 30
