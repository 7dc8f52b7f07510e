"""The kinds of batching differ in pipelines and script calls, and in nothing else."""

import asyncio

from fleetlimit.core.quota import Algorithm
from fleetlimit.stores.embedded import EmbeddedValkey
from support.batching import Batching, open_empty_store
from support.clock import ManualClock
from support.stores import charge, quota_of

PIPELINES = {Batching.COALESCED: [9], Batching.PIPELINED: [9], Batching.SINGLE: [1, 1, 1]}
SCRIPT_CALLS = {Batching.COALESCED: 1, Batching.PIPELINED: 9, Batching.SINGLE: 3}


async def test_pipelines_and_script_calls_of_three_checks(
    valkey: EmbeddedValkey, clock: ManualClock, batching: Batching
) -> None:
    """Three checks, six dry runs included, are one script call, nine, or three pipelines of one."""
    pipelines: list[int] = []
    spent = charge(quota_of(Algorithm.TOKEN_BUCKET, 2))
    async with open_empty_store(
        batching, valkey.url, now_us=clock.monotonic_us, on_pipeline_sent=pipelines.append
    ) as store:
        await store.client.config_resetstat()
        result = await asyncio.gather(*(store.acquire([spent]) for _ in range(3)))
        assert [each.spent for each in result] == [True, True, False]
        assert pipelines == PIPELINES[batching]
        sent = (await store.client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        assert sent == SCRIPT_CALLS[batching]
