"""Exchange of usage reports: every store returns all reports to the first replica by name only."""

import pytest

from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import StoreError
from fleetlimit.limiter.ports import Store
from fleetlimit.limiter.store_replies import StoredReport
from fleetlimit.stores.redis.store import RedisStore
from support.clock import ManualClock

TTL_US = 6 * SECOND_US


async def test_first_replica_receives_all_reports(store: Store, clock: ManualClock) -> None:
    """The first replica by name receives each report with its time; other replicas receive none."""
    first_us = clock.monotonic_us()
    alone = await store.exchange_reports("b", "report of b", "", TTL_US)
    assert (alone.store_now_us, alone.bounds) == (first_us, "")
    assert alone.reports == {"b": StoredReport(first_us, "report of b")}
    clock.advance_us(1)
    both = await store.exchange_reports("a", "report of a: {}", "", TTL_US)
    assert both.reports == {
        "a": StoredReport(first_us + 1, "report of a: {}"),
        "b": StoredReport(first_us, "report of b"),
    }
    assert (await store.exchange_reports("b", "more", "", TTL_US)).reports == {}


async def test_report_replaces_the_previous_one(store: Store, clock: ManualClock) -> None:
    """A report replaces the previous one, and expires if no other follows in time."""
    await store.exchange_reports("b", "old", "", TTL_US)
    clock.advance_us(TTL_US - 1)
    await store.exchange_reports("b", "new", "", TTL_US)
    clock.advance_us(1)
    reply = await store.exchange_reports("a", "", "", TTL_US)
    assert reply.reports == {
        "a": StoredReport(clock.monotonic_us(), ""),
        "b": StoredReport(clock.monotonic_us() - 1, "new"),
    }
    clock.advance_us(TTL_US - 1)
    assert (await store.exchange_reports("a", "", "", TTL_US)).reports.keys() == {"a"}


async def test_next_replica_takes_over(store: Store, clock: ManualClock) -> None:
    """The next replica takes over after the last report of the first one, or its expiry."""
    await store.exchange_reports("a", "", "", TTL_US)
    left = await store.exchange_reports("a", "farewell", "", TTL_US, last=True)
    assert left.reports == {}
    reply = await store.exchange_reports("b", "", "", TTL_US)
    assert reply.reports.keys() == {"a", "b"}
    await store.exchange_reports("a", "back", "", TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).reports == {}
    clock.advance_us(TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).reports.keys() == {"b"}


async def test_bounds_reach_all_replicas(store: Store) -> None:
    """Bounds stay until they are replaced."""
    await store.exchange_reports("a", "", "first", TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).bounds == "first"
    await store.exchange_reports("a", "", "second", TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).bounds == "second"


@pytest.mark.parametrize("shared_store", ["valkey", "cluster"], indirect=True)
async def test_exchange_recovers_after_a_loss_of_state(shared_store: RedisStore) -> None:
    """After a loss of state, the first replica is first again with its next report."""
    for name in "ab":
        await shared_store.exchange_reports(name, "", "bounds", TTL_US)
    await shared_store.client.flushall()
    assert (await shared_store.exchange_reports("b", "", "", TTL_US)).reports.keys() == {"b"}
    reply = await shared_store.exchange_reports("a", "", "", TTL_US)
    assert (reply.bounds, set(reply.reports)) == ("", {"a", "b"})
    assert (await shared_store.exchange_reports("b", "", "", TTL_US)).reports == {}


async def test_reports_expire(shared_store: RedisStore, clock: ManualClock) -> None:
    """Reports of crashed replicas expire, with or without further reports."""
    await shared_store.exchange_reports("a", "", "bounds", TTL_US)
    await shared_store.exchange_reports("b", "", "", TTL_US)
    keys = [key async for key in shared_store.client.scan_iter()]
    assert len(keys) == 2
    for key in keys:
        assert 0 < await shared_store.client.pttl(key) <= 3_600_000 + TTL_US // 1_000 + 1
    clock.advance_us(TTL_US)
    await shared_store.exchange_reports("c", "", "", TTL_US)
    fields = await shared_store.client.hkeys("fl2:{fleet}:reports")
    assert sorted(fields) == [b"", b"c"]


async def test_noscript_is_retried(shared_store: RedisStore) -> None:
    """The script is loaded again, in the same call."""
    await shared_store.client.script_flush()
    assert (await shared_store.exchange_reports("a", "report", "", TTL_US)).reports.keys() == {"a"}


@pytest.mark.parametrize("key", ["reports", "auditors"])
async def test_foreign_value_is_an_error(shared_store: RedisStore, key: str) -> None:
    """A foreign value is an error, and is not changed."""
    await shared_store.client.set(f"fl2:{{fleet}}:{key}", "foreign")
    with pytest.raises(StoreError) as failure:
        await shared_store.exchange_reports("a", "", "", TTL_US)
    assert failure.value.kind == "wrong_type"


async def test_malformed_report_is_removed(shared_store: RedisStore) -> None:
    """Malformed fields are removed from the hash."""
    await shared_store.client.hset("fl2:{fleet}:reports", mapping={"x": "1", "y": "z:"})
    reply = await shared_store.exchange_reports("a", "", "", TTL_US)
    assert reply.reports.keys() == {"a"}
    assert await shared_store.client.hkeys("fl2:{fleet}:reports") == [b"a"]
