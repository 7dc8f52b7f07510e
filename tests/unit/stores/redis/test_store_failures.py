"""A real server that hangs, dies, loses its state or holds foreign values never blocks a check."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import pytest
import redis.asyncio

from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import (
    BucketCorrupt,
    StoreRejected,
    StoreUnavailable,
)
from fleetlimit.limiter.ports import AdjustFailed
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.client import Timeouts
from support.eventually import PATIENCE_SECONDS
from support.forwarder import address_of
from support.frozen import frozen
from support.stores import (
    BUCKET,
    SHORT_TIMEOUTS,
    adjustment,
    charge,
    open_store,
    quota_of,
    raises_store_error,
    redis_store,
    spend,
)
from support.tracing import exact_cancellation

DAY_US = 86_400_000_000
QUOTA = quota_of(Algorithm.FIXED_WINDOW, 1_000, period_us=366 * DAY_US)
ALGORITHMS = list(Algorithm)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    """Return a server that a test may damage if it repairs it."""
    with EmbeddedValkey() as own:
        yield own


@pytest.fixture
async def admin(server: EmbeddedValkey) -> AsyncIterator[redis.asyncio.Redis]:
    """Return another client of that server, which is empty and healthy when a test begins."""
    async with redis.asyncio.Redis(port=server.port) as client:
        await client.flushall()
        yield client


async def send(admin: redis.asyncio.Redis, *command: str) -> None:
    """Send the server a command."""
    await admin.execute_command(*command)  # type: ignore[no-untyped-call]  # untyped driver


@pytest.mark.usefixtures("admin")
async def test_command_during_a_reconnection_gets_an_open_connection(
    server: EmbeddedValkey,
) -> None:
    """A command that is sent while `open` closes the idle connections takes none of them."""
    async with open_store(server) as store:
        # Leaves an idle connection in the pool.
        secrets = await store.key_secrets()
        _, found = await asyncio.gather(store.open(), store.key_secrets())
        assert found == secrets


@exact_cancellation
@pytest.mark.usefixtures("admin")
async def test_paused_process_is_a_timeout(server: EmbeddedValkey) -> None:
    """While the server's process is paused each call fails after its own timeout."""
    async with open_store(server, SHORT_TIMEOUTS) as store:
        with frozen(server):
            async with raises_store_error(StoreUnavailable, "timeout"):
                await spend(store, QUOTA)
            async with raises_store_error(StoreUnavailable, "timeout"):
                await store.adjust([adjustment(charge(QUOTA), -1, 0)])
            async with raises_store_error(StoreUnavailable, "timeout"):
                await store.delete([BUCKET])
            async with raises_store_error(StoreUnavailable, "timeout"):
                await store.heartbeat("replica", 1)
            async with raises_store_error(StoreUnavailable, "timeout"):
                await store.open()


@exact_cancellation
async def test_probes_of_a_paused_process_leave_no_connection(
    server: EmbeddedValkey, admin: redis.asyncio.Redis
) -> None:
    """`open` uses the connection of the checks only, not redis-py's pool, which can be full."""
    store = redis_store(f"{server.url}?max_connections=1", timeouts=SHORT_TIMEOUTS)
    await store.open()
    await store.delete([BUCKET])
    with frozen(server):
        for _ in range(3):
            async with raises_store_error(StoreUnavailable, "timeout"):
                await store.open()
    await store.open()
    assert (await spend(store, QUOTA)).allowed
    with anyio.fail_after(PATIENCE_SECONDS):
        # The server closes the connections of the probes when it runs again.
        while len(await admin.client_list()) > 2:
            pass
    await store.aclose()


@exact_cancellation
async def test_open_can_be_cancelled(server: EmbeddedValkey) -> None:
    """A probe that is cancelled while the server hangs raises CancelledError."""
    async with open_store(server) as store:
        with frozen(server):
            opening = asyncio.ensure_future(store.open())
            for _ in range(20):
                await asyncio.sleep(0)
            opening.cancel()
            with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(asyncio.CancelledError):
                await opening


async def test_late_replies_are_not_mixed_up(server: EmbeddedValkey) -> None:
    """After a timeout, later calls get their own results."""
    async with open_store(server, SHORT_TIMEOUTS) as store, open_store(server) as patient:
        with frozen(server):
            late = [store.acquire([charge(QUOTA, number, key="late")]) for number in range(20)]
            answers = await asyncio.gather(*late, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        await patient.open()
        for number in range(1, 6):
            quota = quota_of(Algorithm.FIXED_WINDOW, 1_000 * number, period_us=366 * DAY_US)
            key = f"own{number}"
            result = await store.acquire([charge(quota, number, key=key)])
            assert result.statuses[0].remaining == 999 * number


async def test_paused_clients_are_a_timeout(
    server: EmbeddedValkey, admin: redis.asyncio.Redis
) -> None:
    """A server that delays writes, as during a failover, is a timeout."""
    async with open_store(server, SHORT_TIMEOUTS) as store:
        await admin.client_pause(60_000, all=False)
        try:
            async with raises_store_error(StoreUnavailable, "timeout"):
                await spend(store, QUOTA)
        finally:
            await admin.client_unpause()
        assert (await spend(store, QUOTA)).allowed


async def test_server_that_dies_during_a_call() -> None:
    """A connection that breaks during a call is an error at once; the store recovers."""
    with EmbeddedValkey() as server:
        async with open_store(server) as store:
            await spend(store, QUOTA)
            os.kill(server.pid, signal.SIGSTOP)
            calls = [asyncio.ensure_future(spend(store, QUOTA)) for _ in range(3)]
            for _ in range(10):
                await asyncio.sleep(0)
            server.stop()
            with anyio.fail_after(PATIENCE_SECONDS):
                answers = await asyncio.gather(*calls, return_exceptions=True)
            kinds = {each.kind for each in answers if isinstance(each, StoreUnavailable)}
            assert (len(answers), kinds) == (3, {"connection"})
            async with raises_store_error(StoreUnavailable, "connection"):
                await spend(store, QUOTA)
            async with raises_store_error(StoreUnavailable, "connection"):
                await store.open()
            server.start()
            await store.open()
            assert (await spend(store, QUOTA)).remaining == 999


async def test_delete_is_one_round_trip(server: EmbeddedValkey, admin: redis.asyncio.Redis) -> None:
    """All buckets of a reset are deleted in one pipeline, and existing ones are counted."""
    async with open_store(server) as store:
        keys = [f"key{number}" for number in range(200)]
        await admin.mset(dict.fromkeys(keys[:150], "1"))
        assert await store.delete([]) == 0
        before = await admin.info("stats")
        assert await store.delete(keys) == 150
        after = await admin.info("stats")
        reads = after["total_reads_processed"] - before["total_reads_processed"]
        # INFO, the pipeline, and the commands of a new connection.
        assert reads < 10


@pytest.mark.usefixtures("admin")
async def test_key_that_cannot_be_sent_is_an_error(server: EmbeddedValkey) -> None:
    """A key that is no UTF-8 fails at once, and not by the timeout; the next call works."""
    timeouts = Timeouts(connect=PATIENCE_SECONDS, operation=PATIENCE_SECONDS)
    async with open_store(server, timeouts=timeouts) as store:
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            with pytest.raises(StoreRejected, match="surrogates not allowed"):
                await store.acquire([charge(QUOTA, key="\ud800")])
            assert (await spend(store, QUOTA)).remaining == 999


async def test_connection_closed_while_idle_fails_no_call(
    server: EmbeddedValkey, admin: redis.asyncio.Redis
) -> None:
    """Connections that the server or a proxy closed while idle are replaced silently."""
    async with open_store(server) as store:
        await spend(store, QUOTA)
        await admin.client_kill_filter(_type="normal", skipme=True)
        for _ in range(20):
            await asyncio.sleep(0)
        for remaining in (998, 997, 996, 995, 994):
            assert (await spend(store, QUOTA)).remaining == remaining


async def test_restart_changes_the_epoch() -> None:
    """A server that restarts empty has another epoch, and full buckets."""
    with EmbeddedValkey() as server:
        async with open_store(server) as store:
            before = await store.heartbeat("replica", DAY_US)
            await spend(store, QUOTA)
            server.stop()
            server.start()
            await store.open()
            assert (await store.heartbeat("replica", DAY_US)).epoch != before.epoch
            assert (await spend(store, QUOTA)).remaining == 999


@pytest.mark.usefixtures("admin")
async def test_noscript_after_a_flush_is_retried(
    server: EmbeddedValkey, admin: redis.asyncio.Redis
) -> None:
    """Scripts that the server lost are loaded again in the same call (fastapi-limiter #54)."""
    async with open_store(server) as store:
        await spend(store, QUOTA)
        for remaining in (998, 997):
            await admin.script_flush()
            assert (await spend(store, QUOTA)).remaining == remaining


async def test_noscript_after_a_restart_is_retried() -> None:
    """After a restart calls succeed without `open` (fastapi-limiter #54)."""
    with EmbeddedValkey() as server:
        async with open_store(server) as store:
            await spend(store, QUOTA)
            server.stop()
            server.start()
            with anyio.fail_after(PATIENCE_SECONDS):
                while True:
                    # Connections from before the restart may each fail once.
                    with contextlib.suppress(StoreUnavailable):
                        assert (await spend(store, QUOTA)).remaining == 999
                        break


async def test_replica_is_a_read_only_error(
    server: EmbeddedValkey, admin: redis.asyncio.Redis
) -> None:
    """A server that became a replica is a `read_only` error until it is a primary again."""
    async with open_store(server) as store:
        await admin.replicaof("127.0.0.1", "1")
        try:
            async with raises_store_error(StoreRejected, "read_only"):
                await spend(store, QUOTA)
        finally:
            await admin.replicaof("NO", "ONE")
        assert (await spend(store, QUOTA)).remaining == 999


def as_redis_6(replies: bytes) -> bytes:
    """Return replies with the error text of a script on a replica before Redis 7."""
    return re.sub(
        rb"-READONLY (You can't write against a read only replica\.)[^\r]*",
        rb"-ERR Error running script (call to f_a7795298): @user_script:763: "
        rb"@user_script: 763: -READONLY \1",
        replies,
    )


@pytest.mark.parametrize("rewrite", [as_redis_6, bytes])
async def test_demoted_primary_is_left(
    server: EmbeddedValkey, admin: redis.asyncio.Redis, rewrite: Callable[[bytes], bytes]
) -> None:
    """After one `read_only` error, the calls go to the server that the address leads to."""
    with EmbeddedValkey() as promoted:
        async with address_of(server.port, rewrite) as address:
            store = redis_store(f"redis://127.0.0.1:{address.port}")
            await store.open()
            await spend(store, QUOTA)
            await admin.replicaof("127.0.0.1", "1")
            try:
                address.move(promoted.port)
                async with raises_store_error(StoreRejected, "read_only"):
                    await spend(store, QUOTA)
                assert (await spend(store, QUOTA)).remaining == 999
            finally:
                await admin.replicaof("NO", "ONE")
                await store.aclose()


async def test_full_server_is_an_out_of_memory_error(
    server: EmbeddedValkey, admin: redis.asyncio.Redis
) -> None:
    """A full server rejects writes instead of evicting a bucket, and the error says why."""
    async with open_store(server) as store:
        await admin.config_set("maxmemory", "1mb")
        try:
            async with raises_store_error(StoreRejected, "out_of_memory"):
                await spend(store, QUOTA)
        finally:
            await admin.config_set("maxmemory", "0")
        assert (await spend(store, QUOTA)).remaining == 999


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("command", "values"),
    [
        ("SET", ["foreign"]),
        ("SET", ["12"]),
        ("SET", ["1:2"]),
        ("SET", ["1:2:3:4"]),
        ("SET", [""]),
        ("SET", ["1::3"]),
        ("RPUSH", ["foreign"]),
        ("RPUSH", ["7"]),
        ("RPUSH", ["7", "foreign"]),
        ("RPUSH", ["7", "12"]),
        ("HSET", ["field", "value"]),
        ("SADD", ["member"]),
    ],
)
async def test_foreign_value_is_a_corrupt_bucket(
    server: EmbeddedValkey,
    admin: redis.asyncio.Redis,
    algorithm: Algorithm,
    command: str,
    values: list[str],
) -> None:
    """A key with a foreign value is an error, and other keys are served."""
    readable = {
        # GETRANGE returns an empty string for an absent key, too.
        (Algorithm.TOKEN_BUCKET, "SET "),
        (Algorithm.SLIDING_WINDOW, "SET 1:2:3:4"),
    }
    if (algorithm, " ".join([command, *values])) in readable:
        return
    quota = quota_of(algorithm, 5)
    await send(admin, command, BUCKET, *values)
    async with open_store(server) as store:
        bad, good = await asyncio.gather(
            store.acquire([charge(quota)]),
            store.acquire([charge(quota, key="neighbour")]),
            return_exceptions=True,
        )
        assert isinstance(bad, BucketCorrupt)
        assert bad.kind == "wrong_type"
        assert not isinstance(good, BaseException)
        assert good.spent
        with pytest.raises(AdjustFailed) as failed:
            await store.adjust(
                [
                    adjustment(charge(quota), -1, 0),
                    adjustment(charge(quota, key="neighbour"), -1, good.store_now_us),
                ]
            )
        assert [(key, type(error)) for key, error in failed.value.errors.items()] == [
            (BUCKET, BucketCorrupt)
        ]
        assert failed.value.kind == "wrong_type"
        assert failed.value.store_adjusted_at_us_by_key["neighbour"] >= good.store_now_us
        peeked = await store.acquire([charge(quota, 0, key="neighbour")], dry_run=True)
        assert peeked.statuses[0].remaining == 5
        # A foreign value is not deleted.
        assert await admin.exists(BUCKET) == 1


@pytest.mark.parametrize("rule", ["+@all ~other:*", "+@all -set ~*"])
async def test_missing_permission_is_an_error(
    server: EmbeddedValkey, admin: redis.asyncio.Redis, rule: str
) -> None:
    """A user without access to the keys, or to a command of a script, is a `permission` error."""
    await send(admin, "ACL", "SETUSER", "few", "on", ">pw", *rule.split())
    try:
        store = redis_store(f"redis://few:pw@127.0.0.1:{server.port}")
        await store.open()
        async with raises_store_error(StoreRejected, "permission"):
            await spend(store, QUOTA)
        await store.aclose()
    finally:
        await send(admin, "ACL", "DELUSER", "few")
