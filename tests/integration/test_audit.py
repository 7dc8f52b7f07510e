"""The audit over a real store: 0 while it keeps the limits, and not 0 when it does not."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.events import StoreFailed, StoreStateLost
from fleetlimit.limiter.ports import AcquireResult
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
Way = Callable[[ManualClock], RedisStore]
Maker = Callable[[Way], Fleet]


class IndependentStore(RedisStore):
    """A store that forgot that there are others: each replica counts for itself."""

    def __init__(self, url: str, keys: KeyScheme, clock: ManualClock) -> None:
        super().__init__(url, keys, timeouts=LONG_TIMEOUTS, now_us=clock)
        self._own = MemoryStore(clock)

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Decide without the others."""
        return await self._own.acquire(charges, dry_run=dry_run)


class AdmitAllStore(RedisStore):
    """A store that refuses nothing, and says that there is always enough."""

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Let in."""
        taken = await super().acquire(charges, dry_run=dry_run)
        verdicts = (
            replace(verdict, allowed=True, remaining=charge.quota.burst, retry_after_us=0)
            for charge, verdict in zip(charges, taken.statuses, strict=True)
        )
        return AcquireResult(taken.store_now_us, tuple(verdicts), spent=True)


@pytest.fixture
async def fleet_over() -> AsyncIterator[Maker]:
    """Return a maker of fleets of three replicas, each with its own way to the store."""
    made: list[Fleet] = []

    def make(store: Way) -> Fleet:
        clock = ManualClock()
        made.append(Fleet(clock, lambda: store(clock), *POLICIES))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.aclose()


def scheme() -> KeyScheme:
    """Return keys that no other test has."""
    return KeyScheme(prefix="audited")


def usual(url: str) -> Way:
    return lambda clock: RedisStore(url, scheme(), timeouts=LONG_TIMEOUTS, now_us=clock)


async def load(fleet: Fleet, seconds: int) -> None:
    """Ask for more than the limits permit, at all replicas at once, second after second."""
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


def shown(fleet: Fleet) -> dict[str, int]:
    return {name: fleet.overshoot(name) for name in NAMES}


@pytest.fixture(params=VARIANTS)
def _saving(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out what the mode is without."""
    with pytest.MonkeyPatch.context() as patch:
        disable(VARIANTS[request.param], patch)
        yield


@pytest.mark.usefixtures("_saving")
@pytest.mark.parametrize("kind", ["valkey", "cluster"])
async def test_a_store_that_keeps_the_limits(
    fleet_over: Maker, request: pytest.FixtureRequest, kind: str
) -> None:
    """Under more load than is let in, at three replicas at once, every policy reads 0."""
    cluster = kind == "cluster"
    url = (
        request.getfixturevalue("cluster_url") if cluster else request.getfixturevalue("valkey").url
    )
    fleet = fleet_over(usual(url))
    await fleet["a"].store.client.flushall()  # type: ignore[attr-defined]  # it is one of these
    await load(fleet, 90)
    await fleet.advance_until_compared()
    assert shown(fleet) == dict.fromkeys(NAMES, 0)
    assert fleet.overshoots() == []
    assert [event for each in fleet.recorders.values() for event in each.of(StoreFailed)] == []
    for policy in NAMES:
        assert fleet.last_audit("a", policy).callers == len(CALLERS)
        assert fleet.total(policy, "intervals") >= len(CALLERS) * 90 // 5
        admitted, permitted = (fleet.total(policy, each) for each in ("admitted", "permitted"))
        # Of what was permitted nearly all was asked for, and let in.
        assert permitted / 2 < admitted <= permitted


async def test_a_store_that_loses_its_state_under_load(
    fleet_over: Maker, valkey: EmbeddedValkey
) -> None:
    """With everything else the statements are lost, too; what the replicas remember is not."""
    fleet = fleet_over(usual(valkey.url))
    client = fleet["a"].store.client  # type: ignore[attr-defined]  # it is one of these
    await client.flushall()
    await load(fleet, 30)
    assert shown(fleet) == dict.fromkeys(NAMES, 0)
    for limiter in fleet.members.values():
        await limiter.membership.heartbeat()
    await asyncio.gather(load(fleet, 5), client.flushall())
    await load(fleet, 20)
    await fleet.advance_until_compared()
    assert all(units > 0 for units in shown(fleet).values()), shown(fleet)
    # All of a window was let in once more; of a bucket all but what the ends of slots leave open.
    assert shown(fleet)["windows"] == 30
    assert 30 - 5 <= shown(fleet)["bucket"] <= 30
    for limiter in fleet.members.values():
        await limiter.membership.heartbeat()
    assert all(each.of(StoreStateLost) for each in fleet.recorders.values())
    await fleet.advance(310)
    assert shown(fleet) == dict.fromkeys(NAMES, 0)


async def test_a_store_that_decides_without_sharing(
    fleet_over: Maker, valkey: EmbeddedValkey
) -> None:
    """Three replicas that each keep the limit let in three times as much together."""
    fleet = fleet_over(lambda clock: IndependentStore(valkey.url, scheme(), clock))
    await load(fleet, 30)
    await fleet.advance_until_compared()
    assert all(units > 0 for units in shown(fleet).values()), shown(fleet)
    # Of each caller's 90 requests in the first half of a minute.
    assert fleet.overshoot("windows") == 3 * 30 - 30


async def test_a_store_that_lets_everything_in(fleet_over: Maker, valkey: EmbeddedValkey) -> None:
    """Whatever it says of what is left: only what was let in counts."""
    fleet = fleet_over(
        lambda clock: AdmitAllStore(valkey.url, scheme(), timeouts=LONG_TIMEOUTS, now_us=clock)
    )
    await load(fleet, 30)
    await fleet.advance_until_compared()
    assert all(units > 0 for units in shown(fleet).values()), shown(fleet)
    assert fleet.overshoot("windows") == 3 * 30 - 30
