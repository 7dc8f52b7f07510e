"""Known faults of other limiters in counting: one test each, named after the issue."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import pytest
from redis.asyncio import Redis

from fleetlimit import Fleetlimit, Policy
from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.batcher import CommandBatcher
from fleetlimit.stores.redis.store import RedisStore
from fleetlimit.testing import ManualClock
from support.stores import LONG_TIMEOUTS


class ReplicaFactory(Protocol):
    """Factory of limiters that share only the store, on its clock or on another one."""

    def __call__(
        self, count: int, prefix: str, *, now_us: Callable[[], int] | None = None
    ) -> list[Limiter]:
        """Return limiters whose keys have this prefix."""
        ...


@pytest.fixture
async def replicas(valkey: EmbeddedValkey) -> AsyncIterator[ReplicaFactory]:
    """Return a factory of limiters, and close them after the test."""
    made: list[Limiter] = []

    def make(count: int, prefix: str, *, now_us: Callable[[], int] | None = None) -> list[Limiter]:
        keys = KeyScheme(prefix=prefix)
        new = [
            Limiter(
                RedisStore(valkey.url, keys, timeouts=LONG_TIMEOUTS, now_us=now_us),
                local=MemoryStore(),
                key_scheme=keys,
            )
            for _ in range(count)
        ]
        made.extend(new)
        return new

    yield make
    for limiter in made:
        await limiter.aclose()


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    """Return a client of the server."""
    async with Redis.from_url(valkey.url) as found:
        yield found


async def test_dataspoke_112_litellm_2730_replicas_do_not_multiply_the_limit(
    replicas: ReplicaFactory,
) -> None:
    """Three replicas together admit exactly as much as one."""
    policy = Policy("daily", (rate_quota("10/day"),))
    limiters = replicas(3, "p112")
    decisions = await asyncio.gather(
        *(limiter.check(policy, principal="alice") for limiter in limiters for _ in range(20))
    )
    assert sum(decision.allowed for decision in decisions) == 10


async def test_litellm_2730_local_fallback_divides_by_the_live_replicas(
    fleetlimit: Fleetlimit,
) -> None:
    """A share is the limit divided by the replicas, so that the shares add up to the limit."""
    quota = rate_quota("100/minute")
    assert sum(quota.per_replica(4).burst for _ in range(4)) == 100
    assert fleetlimit.limiter.membership.replicas == 1


async def test_envoyproxy_ratelimit_427_440_denied_request_spends_nothing(
    fleetlimit: Fleetlimit,
) -> None:
    """A request that one policy denies spends nothing in other policies."""
    narrow = Policy("narrow", (rate_quota("1/day"),))
    wide = Policy("wide", (rate_quota("10/day"),))
    async with fleetlimit:
        limiter = fleetlimit.limiter
        await limiter.check(narrow, wide, principal="alice")
        for _ in range(5):
            assert not (await limiter.check(narrow, wide, principal="alice")).allowed
        seen = (await limiter.peek(wide, principal="alice", cost=9)).allowed
    assert seen


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each != "concurrency"])
async def test_apisix_13574_13704_kong_11859_races_never_overshoot(
    replicas: ReplicaFactory, algorithm: Algorithm
) -> None:
    """Concurrent checks on several connections admit exactly the limit."""
    policy = Policy("race", (rate_quota("50/day", algorithm=algorithm),))
    limiters = replicas(2, f"race-{algorithm}"[:30])
    decisions = await asyncio.gather(
        *(limiter.check(policy, principal="alice") for limiter in limiters for _ in range(200))
    )
    assert sum(decision.allowed for decision in decisions) == 50


async def test_pyratelimiter_74_every_key_expires(replicas: ReplicaFactory, client: Redis) -> None:
    """No algorithm leaves a key without a time to live, or with 0."""
    policy = Policy(
        "all",
        (
            *(
                rate_quota("5/minute", algorithm=each)
                for each in Algorithm
                if each != "concurrency"
            ),
            concurrency_quota(3),
        ),
    )
    # A manual clock: on the store's clock, the window's key could expire at a minute's end.
    (limiter,) = replicas(1, "p74", now_us=ManualClock().monotonic_us)
    # Kept, because a reservation that is dropped releases its unit.
    reservations = [await limiter.reserve(policy, principal="alice") for _ in range(8)]
    lives = [await client.pttl(key) async for key in client.scan_iter("p742:*")]
    assert len(lives) == 5
    assert all(life > 0 for life in lives)
    del reservations


async def test_pyratelimiter_55_clocks_of_replicas_do_not_matter(
    replicas: ReplicaFactory, client: Redis
) -> None:
    """The store's clock decides, so a replica's clock may be wrong."""
    (limiter,) = replicas(1, "p55")
    before = await client.time()
    charge = Charge("fl2:{c}:p:l", rate_quota("5/minute"), 1)
    result = await limiter.store.acquire([charge])
    after = await client.time()
    assert before[0] * 10**6 + before[1] <= result.store_now_us <= after[0] * 10**6 + after[1]


async def test_throttled_py_burst_below_half_the_rate_limits(
    fleetlimit: Fleetlimit, fleetlimit_clock: ManualClock
) -> None:
    """A time to live is rounded up, so a short-lived bucket does not expire at once."""
    policy = Policy("short", (rate_quota("1000/second", burst=2),))
    async with fleetlimit:
        allowed = [
            (await fleetlimit.limiter.check(policy, principal="a")).allowed for _ in range(5)
        ]
        fleetlimit_clock.advance(0.001)
        later = (await fleetlimit.limiter.check(policy, principal="a")).allowed
    assert allowed == [True, True, False, False, False]
    assert later


async def test_envoyproxy_ratelimit_269_default_admits_no_double_limit_at_a_boundary(
    fleetlimit: Fleetlimit, fleetlimit_clock: ManualClock
) -> None:
    """Around a minute's boundary a bucket of 10 admits 10, where fixed windows admit 20."""
    admitted = {}
    async with fleetlimit:
        fleetlimit_clock.advance(59)
        for algorithm in (Algorithm.TOKEN_BUCKET, Algorithm.FIXED_WINDOW):
            policy = Policy(algorithm, (rate_quota("10/minute", algorithm=algorithm),))
            admitted[algorithm] = [await _spend(fleetlimit, policy)]
        fleetlimit_clock.advance(1)
        for algorithm, counts in admitted.items():
            policy = Policy(algorithm, (rate_quota("10/minute", algorithm=algorithm),))
            counts.append(await _spend(fleetlimit, policy))
    assert admitted == {Algorithm.TOKEN_BUCKET: [10, 0], Algorithm.FIXED_WINDOW: [10, 10]}


async def _spend(fleetlimit: Fleetlimit, policy: Policy) -> int:
    decisions = [await fleetlimit.limiter.check(policy, principal="alice") for _ in range(12)]
    return sum(decision.allowed for decision in decisions)


async def test_slowapi_13_limits_differ_by_tier(fleetlimit: Fleetlimit) -> None:
    """The caller's tier selects its limits."""
    policy = Policy("tiers", tiers={"free": (rate_quota("1/day"),), "pro": (rate_quota("3/day"),)})
    counts = {}
    async with fleetlimit:
        for tier in ("free", "pro", "unknown"):
            subject = Subject(principal=Principal(f"caller-{tier}", tier))
            decisions = [await fleetlimit.limiter.check(policy, subject=subject) for _ in range(5)]
            counts[tier] = sum(decision.allowed for decision in decisions)
    assert counts == {"free": 1, "pro": 3, "unknown": 1}


async def test_limitador_506_cost_known_later_is_adjusted(fleetlimit: Fleetlimit) -> None:
    """Unused units of a reservation are refunded; additional units are spent."""
    policy = Policy("tokens", (rate_quota("100/day"),))
    async with fleetlimit:
        limiter = fleetlimit.limiter
        async with await limiter.reserve(policy, principal="alice", cost=80) as reserved:
            await reserved.commit(30)
        assert (await limiter.peek(policy, principal="alice", cost=70)).allowed
        async with await limiter.reserve(policy, principal="alice", cost=10) as reserved:
            await reserved.commit(70)
        assert not (await limiter.peek(policy, principal="alice", cost=1)).allowed


async def test_bucket4j_404_denials_of_a_hot_key_are_cached(
    replicas: ReplicaFactory,
    client: Redis,
) -> None:
    """A hundred denials of one caller take at most five script calls."""
    policy = Policy("hot", (rate_quota("1/day"),))
    (limiter,) = replicas(1, "p404")
    await limiter.check(policy, principal="alice")
    await limiter.check(policy, principal="alice")
    await client.config_resetstat()
    for _ in range(100):
        await limiter.check(policy, principal="alice")
    stats = await client.info("commandstats")
    assert stats.get("cmdstat_evalsha", {"calls": 0})["calls"] <= 5


async def test_concurrent_checks_share_round_trips(replicas: ReplicaFactory) -> None:
    """Concurrent checks share pipelines: there are fewer round trips than checks."""
    policy = Policy("crowd", (rate_quota("1000/day"),))
    (limiter,) = replicas(1, "crowd")
    sent: list[int] = []
    store = limiter.store
    assert isinstance(store, RedisStore)
    assert isinstance(store._batcher, CommandBatcher)
    store._batcher._on_pipeline_sent = sent.append
    await asyncio.gather(*(limiter.check(policy, principal=f"p{n}") for n in range(200)))
    assert sum(sent) >= 200
    assert len(sent) <= 20


async def test_cancelled_request_leaves_no_key_without_expiry(
    replicas: ReplicaFactory, client: Redis
) -> None:
    """One script sets count and expiry, so a cancellation cannot separate them."""
    policy = Policy("cancelled", (Quota(Algorithm.FIXED_WINDOW, 5, 60_000_000, 5),))
    (limiter,) = replicas(1, "cancel")
    for turns in range(8):
        task = asyncio.ensure_future(limiter.check(policy, principal="alice"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    await limiter.check(policy, principal="alice")
    lives = [await client.pttl(key) async for key in client.scan_iter("cancel2:*")]
    assert lives
    assert all(life > 0 for life in lives)
