"""Windows of calendars in every store: boundaries, refunds, reloads, expiry, and clock skew."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fleetlimit.core.quota import SECOND_US, Quota, rate_quota
from fleetlimit.errors import BucketCorrupt, StoreRejected
from fleetlimit.limiter.ports import AdjustFailed, Store
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.store import RedisStore
from support.clock import ManualClock
from support.stores import (
    BUCKET,
    adjustment,
    allowed_status,
    charge,
    denied_status,
    open_store,
    peek,
    spend,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400 * SECOND_US
BERLIN = rate_quota("3/month", timezone="Europe/Berlin", anchor=31)


def us(text: str) -> int:
    """Return an instant in microseconds."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def set_clock(clock: ManualClock, text: str) -> None:
    """Set the clock of the stores."""
    clock.advance_us(us(text) - clock.monotonic_us())


@pytest.mark.parametrize(
    ("quota", "at", "end"),
    [
        (rate_quota("3/month"), "2027-02-10T12:00Z", "2027-03-01T00:00Z"),
        (rate_quota("3/month", anchor=31), "2027-02-10T12:00Z", "2027-02-28T00:00Z"),
        (rate_quota("3/month", anchor=15), "2027-02-15T00:00Z", "2027-03-15T00:00Z"),
        (rate_quota("3/week"), "2027-02-10T12:00Z", "2027-02-15T00:00Z"),
        (rate_quota("3/week", anchor="sunday"), "2027-02-10T12:00Z", "2027-02-14T00:00Z"),
        (rate_quota("3/year", anchor="02-29"), "2027-12-10T12:00Z", "2028-02-29T00:00Z"),
        (rate_quota("3/day", timezone="Asia/Kolkata"), "2027-02-10T12:00Z", "2027-02-10T18:30Z"),
        (rate_quota("3/month", timezone="Europe/Berlin"), "2027-03-10T12:00Z", "2027-03-31T22:00Z"),
    ],
)
async def test_calendar_window_resets_at_its_end(
    store: Store, clock: ManualClock, quota: Quota, at: str, end: str
) -> None:
    """The wait is the time to the exact instant at which the next window begins."""
    set_clock(clock, at)
    left = us(end) - us(at)
    assert await peek(store, quota) == allowed_status(3, 0, 0)
    assert await spend(store, quota, 2) == allowed_status(1, left, left)
    assert await spend(store, quota, 2) == denied_status(1, left, left, left)
    assert await spend(store, quota, 1) == allowed_status(0, left, left)
    clock.advance_us(left - 1)
    assert await spend(store, quota) == denied_status(0, 1, 1, 1)
    clock.advance_us(1)
    assert (await spend(store, quota)).remaining == 2


async def test_refund_returns_to_the_window_of_the_charge(store: Store, clock: ManualClock) -> None:
    """Units of January are not refunded to February."""
    quota = rate_quota("5/month")
    set_clock(clock, "2027-01-31T23:59Z")
    january = charge(quota, 4)
    result = await store.acquire([january])
    await store.adjust([adjustment(january, -1, result.store_now_us)])
    assert (await peek(store, quota)).remaining == 2
    set_clock(clock, "2027-02-01T00:01Z")
    assert (await spend(store, quota, 3)).remaining == 2
    await store.adjust([adjustment(january, -3, result.store_now_us)])
    assert (await peek(store, quota)).remaining == 2


async def test_additional_cost_opens_the_window(store: Store, clock: ManualClock) -> None:
    """A cost that is known later is spent in the window of its correction."""
    quota = rate_quota("5/month")
    set_clock(clock, "2027-01-31T23:59Z")
    january = charge(quota, 0)
    result = await store.acquire([january])
    set_clock(clock, "2027-02-01T00:01Z")
    await store.adjust([adjustment(january, 3, result.store_now_us)])
    assert (await peek(store, quota)).remaining == 2
    await store.adjust([adjustment(january, 100, result.store_now_us)])
    status = await spend(store, quota)
    assert status.retry_after_us == us("2027-03-01T00:00Z") - us("2027-02-01T00:01Z")


async def test_running_window_keeps_its_end_after_a_reload(
    store: Store, clock: ManualClock
) -> None:
    """A client that waits as long as `Retry-After` says is admitted in a window that has begun."""
    old = rate_quota("3/month")
    new = rate_quota("3/month", timezone="Europe/Berlin", anchor=15)
    set_clock(clock, "2027-01-20T00:00Z")
    await spend(store, old, 3)
    denied = await spend(store, new)
    assert denied.retry_after_us == us("2027-02-01T00:00Z") - us("2027-01-20T00:00Z")
    clock.advance_us(denied.retry_after_us)
    # From now on the new calendar applies.
    left = us("2027-02-14T23:00Z") - us("2027-02-01T00:00Z")
    assert await spend(store, new, 3) == allowed_status(0, left, left)


async def test_clock_that_goes_back_stays_in_the_later_month(
    store: Store, clock: ManualClock
) -> None:
    """Units of February count on after a step back to January; a larger step is bounded."""
    quota = rate_quota("3/month")
    set_clock(clock, "2027-02-01T00:00Z")
    await spend(store, quota, 2)
    clock.advance_us(-SECOND_US)
    left = us("2027-03-01T00:00Z") - us("2027-01-31T23:59:59Z")
    assert await spend(store, quota) == allowed_status(0, left, left)
    set_clock(clock, "2026-06-10T00:00Z")
    left = us("2026-08-01T00:00Z") - us("2026-06-10T00:00Z")
    assert await spend(store, quota) == denied_status(0, left, left, left)


async def test_key_expires_at_the_end_of_the_window(
    shared_store: RedisStore, clock: ManualClock
) -> None:
    """The key of a month lives until its end, and an hour longer with a test clock."""
    set_clock(clock, "2027-02-10T12:00Z")
    await spend(shared_store, BERLIN)
    left_ms = (us("2027-02-27T23:00Z") - us("2027-02-10T12:00Z")) // 1_000
    ttl_ms = await shared_store.client.pttl(BUCKET)
    assert -1_000 < left_ms + 3_600_000 - ttl_ms < 600_000


async def test_foreign_value_is_an_error_of_the_bucket(shared_store: RedisStore) -> None:
    """A value of another program is no window."""
    await shared_store.client.set(BUCKET, "7:7")
    with pytest.raises(BucketCorrupt):
        await spend(shared_store, BERLIN)
    with pytest.raises(AdjustFailed):
        await shared_store.adjust([adjustment(charge(BERLIN), -1, 1)])


SKEWS = [0, 60 * SECOND_US, -DAY_US, 40 * DAY_US, -40 * DAY_US, 4_000 * DAY_US, -9_000 * DAY_US]


@pytest.mark.parametrize("skew_us", SKEWS)
@pytest.mark.parametrize("rate", ["3/month", "3/day"])
async def test_servers_time_chooses_the_window(
    valkey: EmbeddedValkey, rate: str, skew_us: int
) -> None:
    """The replica's clock is wrong by hours to years: the window is that of the server's time."""
    quota = rate_quota(rate, timezone="Asia/Tokyo")
    calendar = quota.calendar
    assert calendar is not None
    async with open_store(valkey) as store:
        await store.client.flushall()
        skew_clock(store, skew_us)
        # The other checks share the script call, and are decided although this one is repeated.
        result, other, again = await asyncio.gather(
            store.acquire([charge(quota, 2)]),
            store.acquire([charge(rate_quota("3/minute"), 3, key="other")]),
            store.acquire([charge(quota, 2, key="again"), charge(quota, 1, key="third")]),
        )
        assert [result.spent, other.spent, again.spent] == [True] * 3
        for reply in (result, again):
            for status in reply.statuses:
                end_us = reply.store_now_us + status.reset_after_us
                assert end_us == calendar.window_at(reply.store_now_us)[1]
        assert (await spend(store, quota, 2)).allowed is False
    async with open_store(valkey) as store:
        skew_clock(store, skew_us)
        spent, now_us = charge(quota, 2), result.store_now_us
        # A first call that adjusts: a bucket whose window has begun, and an absent one.
        await store.adjust(
            [adjustment(spent, -1, now_us), replace(adjustment(spent, 1, now_us), key="absent")]
        )
        assert (await peek(store, quota)).remaining == 2
        assert (await store.acquire([charge(quota, 3, key="absent")])).spent is False
        assert (await store.acquire([charge(quota, 2, key="absent")])).spent is True


async def test_wrong_boundaries_after_a_repetition_are_an_error(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the right boundaries nothing is decided: the policy's `on_store_error` applies."""
    async with open_store(valkey) as store:
        await store.client.flushall()
        quota = rate_quota("3/week")
        monkeypatch.setattr(store._windows, "encode", lambda _: "1,2,3")
        with pytest.raises(StoreRejected, match="is outside the windows of the call"):
            await store.acquire([charge(quota)])
        with pytest.raises(AdjustFailed):
            await store.adjust([adjustment(charge(quota), 1, 1)])
        assert not await store.client.exists(BUCKET)


def skew_clock(store: RedisStore, skew_us: int) -> None:
    """Let a store read a clock of the replica that is wrong."""
    read_us = store._windows._read_us
    store._windows._read_us = lambda: read_us() + skew_us
