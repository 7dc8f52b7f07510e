"""Search for the topology of a Cluster: a server with a malformed reply does not end it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from fleetlimit.core.keys import KeyScheme
from fleetlimit.errors import StoreError
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.store import RedisStore
from support.eventually import PATIENCE_SECONDS
from support.hostile_store import FIRST_NUMBER, HostileStore, acquire, encode, hostile_store

SLOTS = 16_384
HOST = b"127.0.0.1"
MALFORMED = {
    "redirection": b"-MOVED 1\r\n",
    "no list": b"+OK\r\n",
    "number": b":1\r\n",
    "null": b"_\r\n",
    "map with a list as a key": b"%1\r\n*0\r\n:1\r\n",
    "no slots": encode([]),
    "slots that are numbers": encode([1]),
    "no primary": encode([[0, SLOTS - 1]]),
    "no port": encode([[0, SLOTS - 1, [HOST]]]),
    "port that is text": encode([[0, SLOTS - 1, [HOST, b"port"]]]),
    "port out of range": encode([[0, SLOTS - 1, [HOST, 65_536]]]),
    "host that is a number": encode([[0, SLOTS - 1, [1, 6379]]]),
    "replica without a port": encode([[0, SLOTS - 1, [HOST, 6379], [HOST]]]),
    "slot out of range": encode([[0, 2**40, [HOST, 6379]]]),
    "slot that is text": encode([[b"0", b"a", [HOST, 6379]]]),
}


@contextlib.asynccontextmanager
async def cluster_store(*servers: HostileStore) -> AsyncIterator[RedisStore]:
    """Return an unopened store of a Cluster with these servers."""
    hosts = ",".join(each.url.partition("//")[2].partition("?")[0] for each in servers)
    timeouts = Timeouts(connect=5.0, operation=5.0)
    store = RedisStore(f"redis+cluster://{hosts}?protocol=3", KeyScheme(), timeouts=timeouts)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_topology_of_some_servers_is_left_out(reply: bytes) -> None:
    """The search goes on with a server whose reply is valid."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        hostile_store() as good,
        hostile_store() as bad,
        hostile_store() as worse,
    ):
        good.topology = encode([[0, SLOTS - 1, [*good.address, b"id"]]])
        bad.topology = worse.topology = reply
        async with cluster_store(bad, worse, good) as store:
            await store.open()
            result = await acquire(store, 3)
            assert result.statuses[0].remaining == FIRST_NUMBER + 3


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_topology_of_every_server_is_an_error(reply: bytes) -> None:
    """The search ends with a `StoreError`, and the next one finds a server that is right again."""
    async with asyncio.timeout(PATIENCE_SECONDS), hostile_store() as server:
        server.topology = reply
        async with cluster_store(server) as store:
            with pytest.raises(StoreError, match=r"no server of the Cluster|unexpected reply"):
                await store.open()
            server.topology = encode([[0, SLOTS - 1, [*server.address, b"id"]]])
            await store.open()
            assert (await acquire(store, 3)).spent
