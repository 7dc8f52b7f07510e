"""Requests to replicas that do not respond."""

from pathlib import Path

from fleetlimit.demo.load_generator import send_all
from fleetlimit.demo.results import Results
from fleetlimit.demo.scenario import make_scenario
from fleetlimit.stores.embedded import free_port


async def test_requests_to_a_stopped_replica_are_errors(tmp_path: Path) -> None:
    """Each request without a response is counted, and the load generator goes on."""
    scenario = make_scenario(tmp_path, requests=50, principals=2)
    results = Results(["one"], [caller.name for caller in scenario.callers])
    await send_all(scenario.schedule(50, 1), {"one": free_port()}, results)
    assert (results.total.errors, results.total.requests) == (50, 50)
