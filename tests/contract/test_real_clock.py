"""Limits hold on the server's own clock, boundaries included."""

from collections.abc import Callable

import pytest

from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.limiter.ports import Store
from fleetlimit.stores.redis.store import RedisStore
from support.admitted import (
    Admitted,
    assert_fixed_window,
    assert_sliding_log,
    assert_sliding_window,
    assert_token_bucket,
)
from support.clock import ManualClock
from support.stores import adjustment, charge, peek, quota_of, spend

PERIOD_US = 20_000
PERIODS = 12


@pytest.mark.parametrize(
    ("algorithm", "keeps"),
    [
        (Algorithm.TOKEN_BUCKET, assert_token_bucket),
        (Algorithm.FIXED_WINDOW, assert_fixed_window),
        (Algorithm.SLIDING_WINDOW, assert_sliding_window),
        (Algorithm.SLIDING_LOG, assert_sliding_log),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_last_millisecond_of_a_window_still_denies(
    on_server_time: RedisStore,
    algorithm: Algorithm,
    keeps: Callable[[Quota, Admitted], None],
) -> None:
    """With checks in a tight loop over many windows, no key expires before its window (APISIX)."""
    quota = quota_of(algorithm, 3, period_us=PERIOD_US)
    admitted: Admitted = []
    result = await on_server_time.acquire([charge(quota)], dry_run=True)
    end_us = result.store_now_us + PERIODS * PERIOD_US
    # On a busy machine there are too few checks in the time.
    while result.store_now_us < end_us or len(admitted) < PERIODS:
        result = await on_server_time.acquire([charge(quota)])
        if result.spent:
            admitted.append((result.store_now_us, 1))
    keeps(quota, admitted)


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_no_key_expires_before_its_bucket_is_full(
    on_server_time: RedisStore, algorithm: Algorithm
) -> None:
    """A key exists until its bucket is full, to the millisecond."""
    quota = quota_of(algorithm, 7)
    for number in range(50):
        spent = charge(quota, key=f"key{number}")
        result = await on_server_time.acquire([spent])
        expires_ms = await on_server_time.client.pexpiretime(spent.key)
        whole_us = result.store_now_us + result.statuses[0].reset_after_us
        assert expires_ms * 1_000 >= whole_us


async def test_rewritten_key_expires_when_its_bucket_is_full(
    on_server_time: RedisStore,
) -> None:
    """Whichever script wrote it last, a key expires within ten seconds after its bucket is full."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 60)
    alone, other = charge(quota), charge(quota, key="other")
    for number in range(60):
        result = await on_server_time.acquire([alone, other] if number % 5 == 4 else [alone])
        if number % 7 == 6:
            (taken_us,) = await on_server_time.adjust([adjustment(alone, -1, result.store_now_us)])
            assert taken_us >= result.store_now_us
        tat = await on_server_time.client.getrange(alone.key, 0, 15)
        full_us = int(tat)
        expires_us = 1_000 * await on_server_time.client.pexpiretime(alone.key)
        assert full_us <= expires_us < full_us + 10 * SECOND_US


async def test_lease_expires_on_the_servers_clock(on_server_time: RedisStore) -> None:
    """A lease is not free before it expired on the server's clock."""
    quota = quota_of(Algorithm.CONCURRENCY, 1, period_us=PERIOD_US)
    first = await on_server_time.acquire([charge(quota, lease="first")])
    result = first
    while not result.spent or result is first:
        result = await on_server_time.acquire([charge(quota, lease="second")])
    assert result.store_now_us >= first.store_now_us + PERIOD_US


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_last_microsecond_of_a_window_still_denies(
    store: Store, clock: ManualClock, algorithm: Algorithm
) -> None:
    """In its last microseconds a spent bucket denies, and reports the microseconds left."""
    quota = quota_of(algorithm, 1)
    await spend(store, quota, lease="first")
    wait_us = (await peek(store, quota, 1)).retry_after_us
    for left_us in (1_000, 999, 2, 1):
        clock.advance_us(wait_us - left_us)
        wait_us = left_us
        denied = await spend(store, quota, lease="second")
        assert (denied.allowed, denied.retry_after_us) == (False, left_us)
