"""A Redis Cluster whose slots move and whose nodes fail, under a store that is open."""

import asyncio
import contextlib

import pytest
import redis.asyncio

from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import StoreError, StoreRejected
from fleetlimit.stores.embedded import EmbeddedValkey, free_port
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.cluster import slot_of
from fleetlimit.stores.redis.scripts import load_script
from support.cluster import Cluster, SpareClusters
from support.eventually import eventually_async
from support.forwarder import address_of
from support.frozen import frozen
from support.stores import charge, quota_of, redis_store

QUOTA = quota_of(Algorithm.TOKEN_BUCKET, 10)
TIMEOUTS = Timeouts(connect=2, operation=2)
"""Connecting to two silent servers, one after the other, takes longer than an opening."""


def key_on(found: Cluster, index: int) -> str:
    """Return the key of a bucket on one of the servers."""
    keys = (f"fl2:{{caller{number}}}:policy:limit" for number in range(1_000))
    return next(key for key in keys if found.owner_of(slot_of(key)) == index)


async def test_moved_slot_redirects_the_call_once(own_cluster: Cluster) -> None:
    """A moved slot redirects the call once; the bucket and its spent units stay one."""
    key = key_on(own_cluster, 0)
    slot, target = slot_of(key), own_cluster.node_id(1)
    store = redis_store(own_cluster.url)
    await store.open()
    try:
        for index in (2, 1, 0):
            own_cluster.run(index, "CLUSTER SETSLOT", slot, "NODE", target)
        for left in (9, 8, 7):
            result = await store.acquire([charge(QUOTA, key=key)])
            assert [status.remaining for status in result.statuses] == [left]
    finally:
        await store.aclose()
    assert [own_cluster.run(i, "CLUSTER COUNTKEYSINSLOT", slot) for i in (0, 1)] == [0, 1]


async def test_migrating_slot_redirects_the_call_to_the_new_node(own_cluster: Cluster) -> None:
    """While a slot migrates, `ASK` redirects a call for a moved key to the new node."""
    key = key_on(own_cluster, 0)
    slot = slot_of(key)
    store = redis_store(own_cluster.url)
    await store.open()
    try:
        source, target = own_cluster.node_id(0), own_cluster.node_id(1)
        own_cluster.run(1, "CLUSTER SETSLOT", slot, "IMPORTING", source)
        own_cluster.run(0, "CLUSTER SETSLOT", slot, "MIGRATING", target)
        for left in (9, 8):
            result = await store.acquire([charge(QUOTA, key=key)])
            assert [status.remaining for status in result.statuses] == [left]
    finally:
        await store.aclose()


async def test_migrating_slot_redirects_over_one_of_several_connections(
    own_cluster: Cluster,
) -> None:
    """`ASKING` goes over the connection of the call, also when the pool has more of them."""
    key = key_on(own_cluster, 0)
    slot = slot_of(key)
    store = redis_store(own_cluster.url)
    await store.open()
    try:
        source, target = own_cluster.node_id(0), own_cluster.node_id(1)
        own_cluster.run(1, "CLUSTER SETSLOT", slot, "IMPORTING", source)
        own_cluster.run(0, "CLUSTER SETSLOT", slot, "MIGRATING", target)
        assert isinstance(store.client, redis.asyncio.RedisCluster)
        node = store.client.get_node("127.0.0.1", own_cluster.nodes[1].port)
        assert node is not None
        await asyncio.gather(*(node.execute_command("PING") for _ in range(2)))
        for left in (9, 8):
            result = await store.acquire([charge(QUOTA, key=key)])
            assert [status.remaining for status in result.statuses] == [left]
    finally:
        await store.aclose()


async def test_command_during_a_reconnection_gets_an_open_connection(cluster_url: str) -> None:
    """A command that is sent while `open` closes the idle connections takes none of them."""
    store = redis_store(cluster_url)
    await store.open()
    try:
        assert store.topology is not None
        # Leaves an idle connection of the node.
        secrets = await store.key_secrets()
        reconnections = map(store.topology.open, store.topology.nodes)
        *_, found = await asyncio.gather(*reconnections, store.key_secrets())
        assert found == secrets
    finally:
        await store.aclose()


async def test_redirected_call_loads_the_scripts_of_a_node_that_is_known_by_then(
    own_cluster: Cluster,
) -> None:
    """The node may have become the known one by another call, whose load has not ended."""
    key, script = key_on(own_cluster, 0), load_script("delete")
    store = redis_store(own_cluster.url)
    await store.open()
    try:
        assert store.topology is not None
        await store.topology.open(store.topology.node_of(key))
        own_cluster.run(0, "SCRIPT FLUSH")
        assert await store.topology.execute_command("EVALSHA", script.sha, 1, key, 0) == 0
    finally:
        await store.aclose()


async def test_stopped_node_fails_only_the_calls_of_its_slots(own_cluster: Cluster) -> None:
    """The calls to the other nodes are decided while one node is down."""
    down, up = key_on(own_cluster, 2), key_on(own_cluster, 1)
    own_cluster.run(0, "CONFIG SET", "cluster-require-full-coverage", "no")
    own_cluster.run(1, "CONFIG SET", "cluster-require-full-coverage", "no")
    store = redis_store(own_cluster.url)
    await store.open()
    try:
        own_cluster.nodes[2].stop()
        for left in (9, 8, 7):
            with pytest.raises(StoreError):
                await store.acquire([charge(QUOTA, key=down)])
            result = await store.acquire([charge(QUOTA, key=up)])
            assert [status.remaining for status in result.statuses] == [left]
    finally:
        await store.aclose()


async def test_cluster_with_new_addresses_is_found_at_the_address_in_the_url(
    spare_clusters: SpareClusters,
) -> None:
    """The URL's address is asked again, also when none of the known nodes replies in time."""
    with spare_clusters.take() as before, spare_clusters.take() as after:
        async with address_of(before.nodes[0].port) as address:
            store = redis_store(f"redis+cluster://127.0.0.1:{address.port}", timeouts=TIMEOUTS)
            try:
                await store.open()
                await store.acquire([charge(QUOTA, 4)])
                with contextlib.ExitStack() as stack:
                    for node in before.nodes:
                        stack.enter_context(frozen(node))
                    address.move(after.nodes[0].port)
                    await store.open()
                result = await store.acquire([charge(QUOTA)])
                assert [status.remaining for status in result.statuses] == [9]
            finally:
                await store.aclose()


async def test_cluster_with_new_addresses_is_found_by_a_check(
    spare_clusters: SpareClusters,
) -> None:
    """A failed check starts the search; the following checks are decided without a probe."""
    with spare_clusters.take() as before, spare_clusters.take() as after:
        async with address_of(before.nodes[0].port) as address:
            store = redis_store(f"redis+cluster://127.0.0.1:{address.port}")
            try:
                await store.open()
                for node in before.nodes:
                    node.stop()
                address.move(after.nodes[0].port)

                async def decided() -> bool:
                    with contextlib.suppress(StoreError):
                        return (await store.acquire([charge(QUOTA)])).spent
                    return False

                assert await eventually_async(decided)
            finally:
                await store.aclose()


async def test_cluster_is_found_by_any_address_in_the_url(own_cluster: Cluster) -> None:
    """Addresses that refuse connections or do not reply do not hide those that do."""
    with EmbeddedValkey() as silent, EmbeddedValkey() as mute, frozen(silent), frozen(mute):
        ports = (silent.port, mute.port, free_port(), own_cluster.nodes[1].port)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        store = redis_store(f"redis+cluster://{hosts}", timeouts=TIMEOUTS)
        try:
            await store.open()
            assert (await store.acquire([charge(QUOTA)])).spent
        finally:
            await store.aclose()


async def test_cluster_is_found_when_the_address_in_the_url_is_gone(own_cluster: Cluster) -> None:
    """The nodes that redis-py discovered are asked, too."""
    async with address_of(own_cluster.nodes[0].port) as address:
        store = redis_store(f"redis+cluster://127.0.0.1:{address.port}")
        await store.open()
    try:
        await store.open()
        assert (await store.acquire([charge(QUOTA)])).spent
    finally:
        await store.aclose()


async def test_plain_url_of_a_node_names_the_scheme_to_write(own_cluster: Cluster) -> None:
    """A server that redirects a plain client is an error that no retry mends."""
    store = redis_store(own_cluster.url.replace("redis+cluster", "redis"))
    await store.open()
    try:
        keys = [key_on(own_cluster, index) for index in range(3)]
        # One script call over three slots, and one for a slot of another node.
        for group in (keys, keys[1:2]):
            calls = [store.acquire([charge(QUOTA, key=key)]) for key in group]
            with pytest.raises(StoreRejected, match=r"write redis\+cluster://") as caught:
                await asyncio.gather(*calls)
            assert caught.value.kind == "cluster_mode"
    finally:
        await store.aclose()
