"""On the server's own clock, boundaries included, nobody is let in beyond the policy."""

from collections.abc import AsyncIterator, Callable

import pytest

from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.limiter.ports import Store
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.store import RedisStore
from support.admitted import (
    Admitted,
    fixed_window_keeps,
    sliding_log_keeps,
    sliding_window_keeps,
    token_bucket_keeps,
)
from support.clock import MovedClock
from support.stores import charge, look, quota_of, settlement, spend
from support.ways import Way, store_on

PERIOD_US = 20_000
PERIODS = 12


@pytest.fixture
async def on_server_time(valkey: EmbeddedValkey, way: Way) -> AsyncIterator[RedisStore]:
    """Return a store that runs on the server's clock, and its keys' real time to live."""
    store = store_on(way, valkey.url)
    await store.open()
    await store.client.flushall()
    yield store
    await store.aclose()


@pytest.mark.parametrize(
    ("algorithm", "keeps"),
    [
        (Algorithm.TOKEN_BUCKET, token_bucket_keeps),
        (Algorithm.FIXED_WINDOW, fixed_window_keeps),
        (Algorithm.SLIDING_WINDOW, sliding_window_keeps),
        (Algorithm.SLIDING_LOG, sliding_log_keeps),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_last_millisecond_of_a_window_still_refuses(
    on_server_time: RedisStore,
    algorithm: Algorithm,
    keeps: Callable[[Quota, Admitted], None],
) -> None:
    """Asked without a pause over many windows, no key expires before its window (APISIX)."""
    quota = quota_of(algorithm, 3, period_us=PERIOD_US)
    admitted: Admitted = []
    taken = await on_server_time.take([charge(quota)], commit=False)
    end_us = taken.now_us + PERIODS * PERIOD_US
    while taken.now_us < end_us:
        taken = await on_server_time.take([charge(quota)])
        if taken.spent:
            admitted.append((taken.now_us, 1))
    assert len(admitted) >= PERIODS
    keeps(quota, admitted)


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_no_key_expires_before_its_state_says_nothing(
    on_server_time: RedisStore, algorithm: Algorithm
) -> None:
    """A key is there until its bucket is whole again, to the millisecond that this falls in."""
    quota = quota_of(algorithm, 7)
    for number in range(50):
        spent = charge(quota, key=f"key{number}")
        taken = await on_server_time.take([spent])
        expires_ms = await on_server_time.client.pexpiretime(spent.key)
        whole_us = taken.now_us + taken.verdicts[0].reset_us
        assert expires_ms * 1_000 >= whole_us


async def test_key_that_is_written_again_and_again_stays_until_its_bucket_is_full(
    on_server_time: RedisStore,
) -> None:
    """Whoever wrote it last, a bucket's key goes when it is full, or within ten seconds of that."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 60)
    alone, other = charge(quota), charge(quota, key="other")
    for number in range(60):
        taken = await on_server_time.take([alone, other] if number % 5 == 4 else [alone])
        if number % 7 == 6:
            (taken_us,) = await on_server_time.settle([settlement(alone, -1, taken.now_us)])
            assert taken_us >= taken.now_us
        full_us = int(await on_server_time.client.get(alone.key) or 0)
        expires_us = 1_000 * await on_server_time.client.pexpiretime(alone.key)
        assert full_us <= expires_us < full_us + 10 * SECOND_US


async def test_held_lease_holds_on_the_servers_clock(on_server_time: RedisStore) -> None:
    """A lease is not free before the server's own clock says that it has lapsed."""
    quota = quota_of(Algorithm.CONCURRENCY, 1, period_us=PERIOD_US)
    first = await on_server_time.take([charge(quota, lease="first")])
    taken = first
    while not taken.spent or taken is first:
        taken = await on_server_time.take([charge(quota, lease="second")])
    assert taken.now_us >= first.now_us + PERIOD_US


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_last_microsecond_of_a_window_still_refuses(
    store: Store, clock: MovedClock, algorithm: Algorithm
) -> None:
    """In its last microseconds a spent bucket refuses, and names them."""
    quota = quota_of(algorithm, 1)
    await spend(store, quota, lease="first")
    wait_us = (await look(store, quota, 1)).retry_us
    for left_us in (1_000, 999, 2, 1):
        clock.advance(wait_us - left_us)
        wait_us = left_us
        refused = await spend(store, quota, lease="second")
        assert (refused.fits, refused.retry_us) == (False, left_us)
