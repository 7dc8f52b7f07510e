"""Every store keeps what replicas state, and hands it to the first of them alone."""

import pytest

from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import StoreError
from fleetlimit.limiter.ports import Store
from fleetlimit.stores.redis.store import RedisStore
from support.clock import ManualClock

TTL_US = 6 * SECOND_US


async def test_the_first_by_name_hears_of_all(store: Store, clock: ManualClock) -> None:
    """With the time of each statement; the others hear of nothing."""
    first_us = clock.now_us
    alone = await store.exchange_reports("b", "what b says", "", TTL_US)
    assert (alone.store_now_us, alone.bounds) == (first_us, "")
    assert alone.reports == {"b": (first_us, "what b says")}
    clock.advance_us(1)
    both = await store.exchange_reports("a", "what a says: {}", "", TTL_US)
    assert both.reports == {
        "a": (first_us + 1, "what a says: {}"),
        "b": (first_us, "what b says"),
    }
    assert (await store.exchange_reports("b", "more", "", TTL_US)).reports == {}


async def test_a_statement_takes_the_place_of_the_last_one(
    store: Store, clock: ManualClock
) -> None:
    """And is forgotten when no other follows in time."""
    await store.exchange_reports("b", "old", "", TTL_US)
    clock.advance_us(TTL_US - 1)
    await store.exchange_reports("b", "new", "", TTL_US)
    clock.advance_us(1)
    heard = await store.exchange_reports("a", "", "", TTL_US)
    assert heard.reports == {"a": (clock.now_us, ""), "b": (clock.now_us - 1, "new")}
    clock.advance_us(TTL_US - 1)
    assert (await store.exchange_reports("a", "", "", TTL_US)).reports.keys() == {"a"}


async def test_the_next_is_first_when_the_first_is_gone(store: Store, clock: ManualClock) -> None:
    """At once when it said so, and else when its time is over; what it said last is heard."""
    await store.exchange_reports("a", "", "", TTL_US)
    left = await store.exchange_reports("a", "farewell", "", TTL_US, last=True)
    assert left.reports == {}
    heard = await store.exchange_reports("b", "", "", TTL_US)
    assert heard.reports.keys() == {"a", "b"}
    await store.exchange_reports("a", "back", "", TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).reports == {}
    clock.advance_us(TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).reports.keys() == {"b"}


async def test_the_word_reaches_all(store: Store) -> None:
    """It stays until there is another one."""
    await store.exchange_reports("a", "", "first", TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).bounds == "first"
    await store.exchange_reports("a", "", "second", TTL_US)
    assert (await store.exchange_reports("b", "", "", TTL_US)).bounds == "second"


@pytest.mark.parametrize("shared_store", ["valkey", "cluster"], indirect=True)
async def test_who_audits_after_a_loss_of_state(shared_store: RedisStore) -> None:
    """The first is first again with its next statement, whoever spoke before it."""
    for name in "ab":
        await shared_store.exchange_reports(name, "", "word", TTL_US)
    await shared_store.client.flushall()
    assert (await shared_store.exchange_reports("b", "", "", TTL_US)).reports.keys() == {"b"}
    heard = await shared_store.exchange_reports("a", "", "", TTL_US)
    assert (heard.bounds, set(heard.reports)) == ("", {"a", "b"})
    assert (await shared_store.exchange_reports("b", "", "", TTL_US)).reports == {}


async def test_statements_expire(shared_store: RedisStore, clock: ManualClock) -> None:
    """Nothing is left of replicas that are gone, as long as anybody audits or not."""
    await shared_store.exchange_reports("a", "", "word", TTL_US)
    await shared_store.exchange_reports("b", "", "", TTL_US)
    keys = [key async for key in shared_store.client.scan_iter()]
    assert len(keys) == 2
    for key in keys:
        assert 0 < await shared_store.client.pttl(key) <= 3_600_000 + TTL_US // 1_000 + 1
    clock.advance_us(TTL_US)
    await shared_store.exchange_reports("c", "", "", TTL_US)
    fields = await shared_store.client.hkeys("fl1:{fleet}:statements")
    assert sorted(fields) == [b"", b"c"]


async def test_a_server_that_forgot_the_script(shared_store: RedisStore) -> None:
    """It is told the script again, in the same statement."""
    await shared_store.client.script_flush()
    assert (await shared_store.exchange_reports("a", "said", "", TTL_US)).reports.keys() == {"a"}


@pytest.mark.parametrize("key", ["statements", "auditors"])
async def test_somebody_elses_value(shared_store: RedisStore, key: str) -> None:
    """It is told, and left as it was."""
    await shared_store.client.set(f"fl1:{{fleet}}:{key}", "somebody's")
    with pytest.raises(StoreError) as failure:
        await shared_store.exchange_reports("a", "", "", TTL_US)
    assert failure.value.kind == "wrong_type"


async def test_a_value_that_is_no_statement(shared_store: RedisStore) -> None:
    """What somebody put among the statements is taken out."""
    await shared_store.client.hset("fl1:{fleet}:statements", mapping={"x": "1", "y": "z:"})
    heard = await shared_store.exchange_reports("a", "", "", TTL_US)
    assert heard.reports.keys() == {"a"}
    assert await shared_store.client.hkeys("fl1:{fleet}:statements") == [b"a"]
