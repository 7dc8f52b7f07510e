"""The documented ACL rule is enough for everything that Fleetlimit sends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import yaml

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.stores.redis.store import RedisStore
from support.acl import IN_CLUSTER, RULE
from support.stores import charge, quota_of, settlement
from support.ways import Way, store_on

PRODUCTION = Path(__file__).parents[2] / "deploy/values/valkey-ha.yaml"


async def say(store: RedisStore, command: str, *arguments: str) -> Any:
    """Send every server of a store a command."""
    cluster = isinstance(store.client, redis.asyncio.RedisCluster)
    to = {"target_nodes": redis.asyncio.RedisCluster.ALL_NODES} if cluster else {}
    return await store.client.execute_command(command, *arguments, **to)


@pytest.mark.parametrize(
    ("shared_store", "rule"),
    [("valkey", RULE), ("cluster", (*RULE, *IN_CLUSTER))],
    indirect=["shared_store"],
)
async def test_documented_rule_is_enough(
    shared_store: RedisStore, way: Way, rule: Sequence[str]
) -> None:
    """A user with that rule and no more is refused nothing, whatever a limiter asks for."""
    await say(shared_store, "ACL SETUSER", "fleetlimit", "on", ">pw", *rule)
    await say(shared_store, "ACL LOG", "RESET")
    store = store_on(way, shared_store.location.replace("//", "//fleetlimit:pw@"))
    try:
        await store.open()
        for algorithm in Algorithm:
            spent = charge(quota_of(algorithm, 2), key=f"fl1:{{{algorithm}}}:policy:limit")
            taken = [await store.take([spent]) for _ in range(3)]
            await store.settle([settlement(spent, 1, taken[0].now_us)])
            await store.settle([settlement(spent, -1, taken[0].now_us)])
            await store.forget([spent.key])
        pulse = await store.heartbeat("replica", SECOND_US)
        assert pulse.server, "the server's run_id"
        await store.heartbeat("replica", 0)
        assert (await store.audit("replica", "", "word", SECOND_US)).statements
        await store.audit("replica", "", "", SECOND_US, last=True)
        refused = await say(shared_store, "ACL LOG")
        assert not any(refused.values() if isinstance(refused, dict) else refused), refused
    finally:
        await store.aclose()
        await say(shared_store, "ACL DELUSER", "fleetlimit")


def test_production_store_has_the_documented_rule() -> None:
    """The store that the deployment proposes gives its user that rule."""
    values = yaml.safe_load(PRODUCTION.read_text())
    assert tuple(values["auth"]["aclUsers"]["fleetlimit"]["permissions"].split()) == RULE
