"""Metrics that need a process with a store."""

from pathlib import Path

from fleetlimit.stores.embedded import EmbeddedValkey
from support.eventually import eventually_async
from support.server import ServeProcess

REQUESTS = 5


async def test_pipelines_and_the_event_loop_are_measured(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    """Each check that called the store is in a pipeline, and the event-loop lag is measured."""
    settings = {"FLEETLIMIT_STORE": valkey.url, "FLEETLIMIT_KEY_PREFIX": "measured"}
    policies = tmp_path / "policies.yaml"
    policies.write_text("version: 1\npolicies: [{name: default, limits: [{rate: 100/day}]}]\n")
    with ServeProcess("--policies", str(policies), settings=settings) as service:
        await service.ready()
        before = await service.metric("fleetlimit_store_batch_size_sum")
        for _ in range(REQUESTS):
            await service.get("/items/1")
        # Heartbeats may be in a pipeline too.
        assert await service.metric("fleetlimit_store_batch_size_sum") >= before + REQUESTS
        assert await service.metric("fleetlimit_store_batch_size_count") >= REQUESTS
        await eventually_async(lambda: service.metric("fleetlimit_event_loop_lag_seconds_count"))
