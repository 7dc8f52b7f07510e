"""What only a process with a store can tell of itself."""

from pathlib import Path

from fleetlimit.stores.embedded import EmbeddedValkey
from support.server import ServeProcess, eventually

REQUESTS = 5


async def test_pipelines_and_the_event_loop_are_measured(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    """Each check that went to the store is in a pipeline, and the event loop tells its lag."""
    settings = {"FLEETLIMIT_STORE": valkey.url, "FLEETLIMIT_KEY_PREFIX": "measured"}
    policies = tmp_path / "policies.yaml"
    policies.write_text("version: 1\npolicies: [{name: default, limits: [{rate: 100/day}]}]\n")
    with ServeProcess("--policies", str(policies), settings=settings) as service:
        await service.ready()
        before = await service.metric("fleetlimit_store_batch_size_sum")
        for _ in range(REQUESTS):
            await service.get("/items/1")
        # Heartbeats travel as well, when they are due.
        assert await service.metric("fleetlimit_store_batch_size_sum") >= before + REQUESTS
        assert await service.metric("fleetlimit_store_batch_size_count") >= REQUESTS
        await eventually(lambda: service.metric("fleetlimit_event_loop_lag_seconds_count"))
