"""The documented ACL rule permits every command that Fleetlimit sends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import yaml

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.stores.redis.store import RedisStore
from support.acl import ACL_RULES, CLUSTER_RULES
from support.batching import Batching, make_store
from support.stores import adjustment, charge, quota_of

PRODUCTION = Path(__file__).parents[2] / "deploy/values/valkey-ha.yaml"


async def send(store: RedisStore, command: str, *arguments: str) -> Any:
    """Send a command to every server of a store."""
    cluster = isinstance(store.client, redis.asyncio.RedisCluster)
    to = {"target_nodes": redis.asyncio.RedisCluster.ALL_NODES} if cluster else {}
    return await store.client.execute_command(command, *arguments, **to)


@pytest.mark.parametrize(
    ("shared_store", "rule"),
    [("valkey", ACL_RULES), ("cluster", (*ACL_RULES, *CLUSTER_RULES))],
    indirect=["shared_store"],
)
async def test_documented_rule_permits_every_call(
    shared_store: RedisStore, batching: Batching, rule: Sequence[str]
) -> None:
    """A user with exactly that rule can run every store call."""
    await send(shared_store, "ACL SETUSER", "fleetlimit", "on", ">pw", *rule)
    await send(shared_store, "ACL LOG", "RESET")
    store = make_store(batching, shared_store.location.replace("//", "//fleetlimit:pw@"))
    try:
        await store.open()
        for algorithm in Algorithm:
            spent = charge(quota_of(algorithm, 2), key=f"fl2:{{{algorithm}}}:policy:limit")
            result = [await store.acquire([spent]) for _ in range(3)]
            await store.adjust([adjustment(spent, 1, result[0].store_now_us)])
            await store.adjust([adjustment(spent, -1, result[0].store_now_us)])
            await store.delete([spent.key])
        pulse = await store.heartbeat("replica", SECOND_US)
        assert pulse.server, "the server's run_id"
        await store.heartbeat("replica", 0)
        assert await store.key_secrets()
        assert (await store.exchange_reports("replica", "", "bounds", SECOND_US)).reports
        await store.exchange_reports("replica", "", "", SECOND_US, last=True)
        denied = await send(shared_store, "ACL LOG")
        assert not any(denied.values() if isinstance(denied, dict) else denied), denied
    finally:
        await store.aclose()
        await send(shared_store, "ACL DELUSER", "fleetlimit")


def test_production_store_has_the_documented_rule() -> None:
    """The store of the production deployment gives its user that rule."""
    values = yaml.safe_load(PRODUCTION.read_text())
    assert tuple(values["auth"]["aclUsers"]["fleetlimit"]["permissions"].split()) == ACL_RULES
