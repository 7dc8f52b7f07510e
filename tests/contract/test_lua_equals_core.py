"""The Lua scripts decide like the Python core, to the microsecond, over random schedules."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import MAX_LIMIT, MAX_REFILL_US, SECOND_US, Algorithm, Quota
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.batching import Batching, open_empty_store, use_batching
from support.calendars import calendar_quotas
from support.clock import EPOCH_US, ManualClock
from support.stores import adjustment

_EXAMPLES = 100
"""For each way to send a check to the script."""
DAY_US = 86_400 * SECOND_US
_names = count()
CALENDARS = calendar_quotas(st.one_of(st.integers(1, 12), st.integers(1, MAX_LIMIT)))


@dataclass(frozen=True, slots=True)
class Acquire:
    """One check: for each bucket the units, as a fraction of its burst, and the group.

    `ahead` is the time in which the units may be used, as a fraction of the time in which a bucket
    refills; 0 for leases.
    """

    units: tuple[tuple[float, int], ...]
    commit: bool
    ahead: float = 0


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


@pytest.fixture(scope="module", params=[Batching.COALESCED, Batching.SINGLE])
async def lua(
    request: pytest.FixtureRequest, valkey: EmbeddedValkey, clock: ManualClock
) -> AsyncIterator[RedisStore]:
    """Return one open store for all examples, with several checks or one in a script call.

    A pipeline has the script calls of single checks: other tests prove that its replies are
    those of its checks.
    """
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
        st.one_of(st.just(0), st.floats(0, 0.5)),
    )
    delta = st.one_of(st.integers(-6, 4), st.integers(-MAX_LIMIT, MAX_LIMIT), st.just(10**15))
    adjust = st.builds(Adjust, st.integers(1, 4), delta)
    renew = st.builds(Renew, st.integers(1, 4))
    wait = st.builds(Wait, st.integers(0, longest_us), st.booleans())
    return st.lists(st.one_of(check, check, wait, adjust, renew), min_size=4, max_size=30)


def charges_of(example: int, number: int, limits: list[Quota], check: Acquire) -> list[Charge]:
    """Return the charges of one step, on the buckets of this example."""
    charges = [
        Charge(f"{example}:{place}", quota, round(share * quota.burst), f"lease{number}", group)
        for place, (quota, (share, group)) in enumerate(zip(limits, check.units, strict=False))
    ]
    for each in charges if check.ahead else ():
        if each.quota.algorithm is Algorithm.TOKEN_BUCKET:
            each.lease, each.ahead_us = "", round(check.ahead * each.quota.refill_us)
    return charges


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
    limits=st.lists(
        st.one_of(
            quotas(MAX_LIMIT, MAX_REFILL_US // 1_000),
            # Rates of tokens and bytes: a unit takes less than a microsecond.
            quotas(MAX_LIMIT, 60_000),
        ),
        min_size=1,
        max_size=5,
    ),
    schedule=st.one_of(steps(longest_us=60_000_000), steps(longest_us=MAX_REFILL_US)),
)
async def test_lua_equals_core_with_the_largest_limits(
    lua: RedisStore, clock: ManualClock, limits: list[Quota], schedule: list[Step]
) -> None:
    """Limits up to 2^45, whose products take more than the 53 bits of a double: Lua equals."""
    await compare(lua, clock, [(limits, step) for step in schedule])


@settings(max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=st.lists(st.tuples(CALENDARS, CALENDARS), min_size=1, max_size=5),
    before=steps(longest_us=DAY_US * 40),
    after=steps(longest_us=DAY_US),
)
async def test_lua_equals_core_with_calendars(
    lua: RedisStore,
    clock: ManualClock,
    limits: list[tuple[Quota, Quota]],
    before: list[Step],
    after: list[Step],
) -> None:
    """Windows of calendars, and a reload that changes unit, time zone and anchor."""
    old, new = map(list, zip(*limits, strict=True))
    schedule = [*((old, step) for step in before), *((new, step) for step in after)]
    await compare(lua, clock, schedule)


@settings(max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=st.lists(
        st.tuples(quotas(MAX_LIMIT, 60_000), st.integers(1, MAX_LIMIT)), min_size=1, max_size=3
    ),
    before=steps(longest_us=60_000_000),
    after=steps(longest_us=60_000_000),
)
async def test_lua_equals_core_after_changed_large_limits(
    lua: RedisStore,
    clock: ManualClock,
    limits: list[tuple[Quota, int]],
    before: list[Step],
    after: list[Step],
) -> None:
    """Both read alike a bucket whose limit was larger or smaller by any factor."""
    old = [quota for quota, _ in limits]
    new = []
    for quota, limit in limits:
        is_kept_by_unit = quota.algorithm in {Algorithm.SLIDING_LOG, Algorithm.CONCURRENCY}
        bounded = min(limit, 50) if is_kept_by_unit else limit
        new.append(Quota(quota.algorithm, bounded, quota.period_us, bounded))
    schedule = [*((old, step) for step in before), *((new, step) for step in after)]
    await compare(lua, clock, schedule)


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
