"""Shared stores only: expiry of keys, replica membership and loss of state."""

import pytest

from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.ports import Store
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.store import RedisStore
from support.batching import Batching, make_store
from support.clock import ManualClock
from support.stores import BUCKET, LONG_TIMEOUTS, MINUTE_US, adjustment, charge, quota_of, spend

ALGORITHMS = list(Algorithm)
BOTH = pytest.mark.parametrize("shared_store", ["valkey", "cluster"], indirect=True)


async def ttls_ms(store: RedisStore) -> dict[str, int]:
    """Return the time to live of every key."""
    keys = [key.decode() async for key in store.client.scan_iter()]
    return {key: await store.client.pttl(key) for key in keys}


@BOTH
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_key_expires_after_each_operation(
    shared_store: RedisStore, clock: ManualClock, algorithm: Algorithm
) -> None:
    """No operation leaves a key without a time to live (PyrateLimiter #74), or with 0."""
    quota = quota_of(algorithm, 4)
    spent = charge(quota, 2)
    result = await shared_store.acquire([spent])
    for step in (
        shared_store.acquire([charge(quota, 1, lease="b")]),
        shared_store.acquire([charge(quota, 3, lease="c")]),
        shared_store.acquire([charge(quota, 0)]),
        shared_store.acquire([charge(quota, 1)], dry_run=True),
        shared_store.adjust([adjustment(spent, -1, result.store_now_us)]),
        shared_store.adjust([adjustment(spent, 0, result.store_now_us)]),
        shared_store.adjust([adjustment(spent, 2, result.store_now_us)]),
        shared_store.heartbeat("replica", SECOND_US),
        shared_store.exchange_reports("replica", "report", "bounds", SECOND_US),
    ):
        clock.advance_us(1_234)
        await step
        lives = await ttls_ms(shared_store)
        assert BUCKET in lives
        assert all(life > 0 for life in lives.values()), lives


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_key_lives_as_long_as_its_state(
    on_server_time: RedisStore, algorithm: Algorithm
) -> None:
    """On the server's clock, a key lives as long as its state matters, and not much longer."""
    await spend(on_server_time, quota_of(algorithm, 5, period_us=1_000 * SECOND_US))
    (life_ms,) = (await ttls_ms(on_server_time)).values()
    longest_ms = 2_000_001 if algorithm is Algorithm.SLIDING_WINDOW else 1_000_001
    assert 0 < life_ms <= longest_ms


async def test_time_to_live_is_never_rounded_to_0(on_server_time: RedisStore) -> None:
    """A bucket that is full again within a millisecond still has a time to live (throttled-py)."""
    # A unit refills in a fiftieth of a millisecond.
    quota = quota_of(Algorithm.TOKEN_BUCKET, 100, period_us=2_000, burst=1)
    assert (await spend(on_server_time, quota)).allowed
    assert -1 not in (await ttls_ms(on_server_time)).values()


@BOTH
@pytest.mark.parametrize(
    "algorithm", [Algorithm.TOKEN_BUCKET, Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW]
)
async def test_size_of_a_bucket_does_not_grow_with_traffic(
    shared_store: RedisStore, clock: ManualClock, algorithm: Algorithm
) -> None:
    """A bucket grows by the digits of its counts, and not with the requests or the limit."""
    quota = quota_of(algorithm, 7_000_000)
    clock.advance_us(1)
    await spend(shared_store, quota)
    small = await shared_store.client.memory_usage(BUCKET) or 0
    for _ in range(500):
        clock.advance_us(997)
        await spend(shared_store, quota, 9_001)
    grown = await shared_store.client.memory_usage(BUCKET) or 0
    # The server's allocator has size classes: a few more digits may be the next class.
    assert 0 < grown <= small + 32


async def test_size_of_a_log_is_its_limit(shared_store: RedisStore, clock: ManualClock) -> None:
    """A log has an entry for each unit within its period, and drops older ones."""
    quota = quota_of(Algorithm.SLIDING_LOG, 10)
    for _ in range(200):
        clock.advance_us(MINUTE_US // 10)
        assert (await spend(shared_store, quota)).allowed
    units, block = await shared_store.client.execute_command("LRANGE", BUCKET, 0, -1)
    assert (int(units), len(block.split(b";"))) == (10, 10)


@BOTH
async def test_replica_counts_from_its_heartbeat_until_its_expiry(
    shared_store: RedisStore, clock: ManualClock
) -> None:
    """A replica counts until it leaves or its time to live is over."""
    ttl_us = 10 * SECOND_US
    assert (await shared_store.heartbeat("a", ttl_us)).replicas == 1
    assert (await shared_store.heartbeat("b", ttl_us)).replicas == 2
    assert (await shared_store.heartbeat("a", ttl_us)).replicas == 2
    assert (await shared_store.heartbeat("b", 0)).replicas == 1
    clock.advance_us(ttl_us - 1)
    assert (await shared_store.heartbeat("c", ttl_us)).replicas == 2
    clock.advance_us(1)
    assert (await shared_store.heartbeat("c", ttl_us)).replicas == 1


@BOTH
async def test_fingerprints_expire_with_the_replicas(
    shared_store: RedisStore, clock: ManualClock
) -> None:
    """A fingerprint is removed after the last replica with it, but the last of all stays."""
    keys = KeyScheme(b"another secret of 16 bytes")
    other = RedisStore(
        shared_store.location, keys, timeouts=LONG_TIMEOUTS, now_us=clock.monotonic_us
    )
    old, new = KeyScheme().fingerprint, keys.fingerprint
    ttl_us = 10 * SECOND_US
    assert await shared_store.key_secrets() == frozenset()
    assert (await shared_store.heartbeat("a", ttl_us)).key_secrets == {old}
    clock.advance_us(SECOND_US)
    assert (await other.heartbeat("b", ttl_us)).key_secrets == {old, new}
    await shared_store.heartbeat("a", 0)
    clock.advance_us(ttl_us - SECOND_US)
    assert (await other.heartbeat("b", ttl_us)).key_secrets == {new}
    await other.heartbeat("b", 0)
    clock.advance_us(60 * ttl_us)
    assert await shared_store.key_secrets() == {new}
    await other.aclose()


@BOTH
async def test_epoch_changes_when_the_state_is_lost(shared_store: RedisStore) -> None:
    """The epoch stays the same for all replicas until the store loses its state."""
    first = await shared_store.heartbeat("a", SECOND_US)
    assert (await shared_store.heartbeat("b", SECOND_US)).epoch == first.epoch
    await shared_store.client.flushall()
    again = await shared_store.heartbeat("a", SECOND_US)
    assert (again.replicas, again.epoch == first.epoch) == (1, False)


async def test_heartbeat_counts_the_sender(store: Store) -> None:
    """Every store counts the sender of a heartbeat, and has an epoch."""
    pulse = await store.heartbeat("a", SECOND_US)
    assert (pulse.replicas, bool(pulse.epoch)) == (1, True)
    assert await store.heartbeat("a", SECOND_US) == pulse


async def test_two_clients_share_one_bucket(
    shared_store: RedisStore, clock: ManualClock, valkey: EmbeddedValkey, batching: Batching
) -> None:
    """Two replicas together admit as much as one (dataspoke #112, litellm #2730)."""
    other = make_store(batching, valkey.url, now_us=clock.monotonic_us)
    await other.open()
    quota = quota_of(Algorithm.TOKEN_BUCKET, 5)
    admitted = [
        (await spend(one, quota)).allowed for _ in range(5) for one in (shared_store, other)
    ]
    assert admitted == [True] * 5 + [False] * 5
    await other.aclose()
