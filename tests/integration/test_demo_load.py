"""Sending requests to replicas that misbehave."""

from pathlib import Path

from fleetlimit.demo.load_generator import send_all
from fleetlimit.demo.results import Results
from fleetlimit.demo.scenario import make_scenario
from fleetlimit.stores.embedded import free_port


async def test_a_replica_that_is_gone_is_an_error_and_no_end(tmp_path: Path) -> None:
    """Each request without an answer is counted, and the rest is sent nevertheless."""
    scene = make_scenario(tmp_path, requests=50, principals=2)
    tally = Results(["one"], [caller.name for caller in scene.callers])
    await send_all(scene.schedule(50, 1), {"one": free_port()}, tally)
    assert (tally.total.errors, tally.total.requests) == (50, 50)
