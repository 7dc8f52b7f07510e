"""The Lua scripts decide like the Python core, to the microsecond, over random schedules."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import MAX_REFILL_US, Algorithm, Quota
from fleetlimit.limiter.ports import AcquireResult
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.batching import Batching, open_empty_store, use_batching
from support.clock import EPOCH_US, ManualClock
from support.stores import adjustment

_EXAMPLES = 200
"""For each kind of batching."""
_names = count()


@dataclass(frozen=True, slots=True)
class Acquire:
    """One check: for each bucket the units, as a fraction of its burst, and the group."""

    units: tuple[tuple[float, int], ...]
    commit: bool


@dataclass(frozen=True, slots=True)
class Adjust:
    """Adjustment of an earlier check, counted back from the last one."""

    which: int
    delta: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Renewal of the leases of an earlier check, counted back from the last one."""

    which: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Advance the clock, by microseconds or by the longest retry time of the last result."""

    micros: int
    exactly: bool


Step = Acquire | Adjust | Renew | Wait


@pytest.fixture(scope="module")
def clock() -> ManualClock:
    """Return the clock of both stores; each example restarts it, with its own buckets."""
    return ManualClock()


@pytest.fixture(scope="module", params=list(Batching))
async def lua(
    request: pytest.FixtureRequest, valkey: EmbeddedValkey, clock: ManualClock
) -> AsyncIterator[RedisStore]:
    """Return one open store for all examples of one kind of batching."""
    with use_batching(request.param) as batching:
        async with open_empty_store(batching, valkey.url, now_us=clock.monotonic_us) as store:
            yield store


def quotas(largest: int, longest_ms: int) -> st.SearchStrategy[Quota]:
    """Generate quotas of every algorithm."""

    def build(algorithm: Algorithm, limit: int, period_ms: int, burst: int) -> Quota:
        if algorithm in {Algorithm.SLIDING_LOG, Algorithm.CONCURRENCY}:
            limit = min(limit, 50)
        if algorithm is not Algorithm.TOKEN_BUCKET:
            burst = limit
        burst = min(burst, MAX_REFILL_US * limit // (period_ms * 1_000))
        return Quota(algorithm, limit, period_ms * 1_000, burst)

    return st.builds(
        build,
        st.sampled_from(Algorithm),
        st.integers(1, largest),
        st.integers(1, longest_ms),
        st.integers(1, largest),
    )


def steps(longest_us: int) -> st.SearchStrategy[list[Step]]:
    """Generate a schedule."""
    requested = st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 0, 1, 2]))
    check = st.builds(
        Acquire,
        st.lists(requested, min_size=5, max_size=5).map(tuple),
        st.sampled_from([True] * 4 + [False]),
    )
    adjust = st.builds(Adjust, st.integers(1, 4), st.one_of(st.integers(-6, 4), st.just(10**15)))
    renew = st.builds(Renew, st.integers(1, 4))
    wait = st.builds(Wait, st.integers(0, longest_us), st.booleans())
    return st.lists(st.one_of(check, check, wait, adjust, renew), min_size=4, max_size=30)


def charges_of(example: int, number: int, limits: list[Quota], check: Acquire) -> list[Charge]:
    """Return the charges of one step, on the buckets of this example."""
    return [
        Charge(f"{example}:{place}", quota, round(share * quota.burst), f"lease{number}", group)
        for place, (quota, (share, group)) in enumerate(zip(limits, check.units, strict=False))
    ]


async def compare(
    lua: RedisStore, clock: ManualClock, schedule: list[tuple[list[Quota], Step]]
) -> None:
    """Run a schedule in both stores and compare every result."""
    clock.advance_us(EPOCH_US - clock.monotonic_us())
    core = MemoryStore(clock.monotonic_us)
    example = next(_names)
    history: list[tuple[list[Charge], AcquireResult]] = []
    wait_us = 0
    for number, (limits, step) in enumerate(schedule):
        if isinstance(step, Wait):
            clock.advance_us(wait_us if step.exactly else step.micros)
        elif isinstance(step, Renew):
            charges, _ = history[-min(step.which, len(history))] if history else ([], None)
            leases = [each for each in charges if each.quota.algorithm is Algorithm.CONCURRENCY]
            await lua.renew(leases)
            await core.renew(leases)
        elif isinstance(step, Adjust):
            charges, result = history[-min(step.which, len(history))] if history else ([], None)
            corrections = [
                adjustment(each, step.delta, result.store_now_us) for each in charges if result
            ]
            await lua.adjust(corrections)
            await core.adjust(corrections)
        else:
            charges = charges_of(example, number, limits, step)
            result = await core.acquire(charges, dry_run=not step.commit)
            assert await lua.acquire(charges, dry_run=not step.commit) == result
            wait_us = max(each.retry_after_us for each in result.statuses)
            if result.spent:
                history.append((charges, result))


@settings(max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(limits=st.lists(quotas(12, 20), min_size=1, max_size=5), schedule=steps(longest_us=30_000))
async def test_lua_equals_core_with_small_limits(
    lua: RedisStore, clock: ManualClock, limits: list[Quota], schedule: list[Step]
) -> None:
    """Small limits over short periods, which hit every boundary: Lua equals the core."""
    await compare(lua, clock, [(limits, step) for step in schedule])


@settings(max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=st.lists(quotas(100_000, 86_400_000), min_size=1, max_size=5),
    schedule=steps(longest_us=86_400_000_000),
)
async def test_lua_equals_core_with_large_limits(
    lua: RedisStore, clock: ManualClock, limits: list[Quota], schedule: list[Step]
) -> None:
    """Large limits over long periods, which show rounding errors: Lua equals the core."""
    await compare(lua, clock, [(limits, step) for step in schedule])


@settings(max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=st.lists(st.tuples(quotas(12, 20), st.integers(1, 12)), min_size=1, max_size=5),
    before=steps(longest_us=10_000),
    after=steps(longest_us=10_000),
)
async def test_lua_equals_core_after_changed_limits(
    lua: RedisStore,
    clock: ManualClock,
    limits: list[tuple[Quota, int]],
    before: list[Step],
    after: list[Step],
) -> None:
    """Both read a bucket alike after its limit changed."""
    old = [quota for quota, _ in limits]
    new = [Quota(quota.algorithm, limit, quota.period_us, limit) for quota, limit in limits]
    schedule = [*((old, step) for step in before), *((new, step) for step in after)]
    await compare(lua, clock, schedule)


@settings(max_examples=_EXAMPLES // 2, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=st.lists(quotas(12, 20), min_size=1, max_size=3),
    turns=st.lists(
        st.lists(
            st.tuples(st.integers(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=9
        ),
        min_size=1,
        max_size=4,
    ),
)
async def test_checks_of_one_script_call_are_decided_in_order(
    lua: RedisStore,
    clock: ManualClock,
    limits: list[Quota],
    turns: list[list[tuple[int, float, bool]]],
) -> None:
    """Coalesced checks, on one bucket or on several, are decided like single ones."""
    clock.advance_us(EPOCH_US - clock.monotonic_us())
    core = MemoryStore(clock.monotonic_us)
    example = next(_names)
    for number, turn in enumerate(turns):
        requested = [
            (
                [
                    Charge(
                        f"{example}:{caller}:{place}",
                        quota,
                        round(share * quota.burst),
                        f"{number}-{at}",
                    )
                    for place, quota in enumerate(limits)
                ],
                commit,
            )
            for at, (caller, share, commit) in enumerate(turn)
        ]
        expected = [
            await core.acquire(charges, dry_run=not commit) for charges, commit in requested
        ]
        found = await asyncio.gather(
            *(lua.acquire(charges, dry_run=not commit) for charges, commit in requested)
        )
        assert list(found) == expected
        clock.advance_us(5_000)
