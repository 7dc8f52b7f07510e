"""Factories of charges, adjustments, statuses and stores for tests."""

import contextlib
from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.errors import StoreError
from fleetlimit.limiter.ports import Store
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.credentials import Credentials
from fleetlimit.stores.redis.store import RedisStore
from support.eventually import PATIENCE_SECONDS

MINUTE_US = 60 * SECOND_US
LONG_TIMEOUTS = Timeouts(connect=PATIENCE_SECONDS, operation=PATIENCE_SECONDS)
"""For tests without timeouts, because a shared machine may pause."""
SHORT_TIMEOUTS = Timeouts(connect=0.3, operation=0.1)
"""For tests of a store that does not reply."""
BUCKET = "fl2:{caller}:policy:limit"


def quota_of(
    algorithm: Algorithm, limit: int, *, period_us: int = MINUTE_US, burst: int | None = None
) -> Quota:
    """Return a quota of any algorithm; the default period or lease is a minute."""
    return Quota(algorithm, limit, period_us, limit if burst is None else burst)


def allowed_status(remaining: int, next_us: int, reset_us: int) -> BucketStatus:
    """Return the status of a bucket that allows."""
    return BucketStatus(
        allowed=True,
        remaining=remaining,
        retry_after_us=0,
        next_unit_after_us=next_us,
        reset_after_us=reset_us,
    )


def denied_status(remaining: int, retry_us: int, next_us: int, reset_us: int) -> BucketStatus:
    """Return the status of a bucket that denies."""
    return BucketStatus(
        allowed=False,
        remaining=remaining,
        retry_after_us=retry_us,
        next_unit_after_us=next_us,
        reset_after_us=reset_us,
    )


def charge(
    quota: Quota, units: int = 1, *, key: str = BUCKET, lease: str = "lease", group: int = 0
) -> Charge:
    """Return a charge on the one bucket of most tests."""
    return Charge(key, quota, units, lease, group)


def adjustment(spent: Charge, delta: int, store_acquired_at_us: int) -> Adjustment:
    """Return the adjustment of a charge that was spent at that store time."""
    return spent.adjustment(delta, store_acquired_at_us)


async def spend(
    store: Store, quota: Quota, units: int = 1, *, lease: str = "lease"
) -> BucketStatus:
    """Charge the one bucket and return its status."""
    result = await store.acquire([charge(quota, units, lease=lease)])
    (status,) = result.statuses
    assert result.spent is status.allowed
    return status


async def peek(store: Store, quota: Quota, units: int = 0) -> BucketStatus:
    """Return the status of the one bucket without spending."""
    result = await store.acquire([charge(quota, units)], dry_run=True)
    assert not result.spent
    return result.statuses[0]


def allowed(result: AcquireResult) -> list[bool]:
    """Return for each charge whether it was allowed."""
    return [status.allowed for status in result.statuses]


def redis_store(
    url: str,
    *,
    timeouts: Timeouts = LONG_TIMEOUTS,
    now_us: Callable[[], int] | None = None,
    credentials: Credentials | None = None,
) -> RedisStore:
    """Return an unopened store."""
    return RedisStore(url, KeyScheme(), timeouts=timeouts, now_us=now_us, credentials=credentials)


@contextlib.asynccontextmanager
async def raises_store_error(expected: type[StoreError], kind: str) -> AsyncIterator[None]:
    """Expect an error of this kind, and fail if the code hangs."""
    with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(expected) as caught:
        yield
    assert caught.value.kind == kind


@contextlib.asynccontextmanager
async def open_store(
    server: EmbeddedValkey, timeouts: Timeouts = LONG_TIMEOUTS
) -> AsyncIterator[RedisStore]:
    """Open a store and close it."""
    store = redis_store(server.url, timeouts=timeouts)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()
