"""Start, log lines and metrics of a replica."""

import json
import os
import sys
from pathlib import Path

import pytest

from fleetlimit.demo.replicas import Replica, start_replicas
from fleetlimit.demo.scrape import parse_counters


def test_replica_reads_its_ports_from_the_log() -> None:
    """Both ports are in the line that the service logs once it accepts requests."""
    replica = Replica("one")
    replica.on_log_line("no JSON at all")
    replica.on_log_line('"JSON, but no event"')
    replica.on_log_line(json.dumps({"event": "service.ready", "port": 8001, "admin_port": 9001}))
    assert (replica.port, replica.admin_port) == (8001, 9001)


def test_replica_counts_logged_and_suppressed_denials() -> None:
    """The log of a flood is rate limited, and its summary has the number of missing lines."""
    replica = Replica("one")
    for line in (
        {"event": "request.denied"},
        {"event": "request.denied"},
        {"event": "request.denied.suppressed", "suppressed": 40},
        {"event": "request.fail_closed.suppressed", "suppressed": 5},
        {"event": "request.fail_closed"},
    ):
        replica.on_log_line(json.dumps(line))
    assert replica.denied_in_log == 42


# One process, the first that creates a file, waits until the file `go` exists.
_ONE_WAITS = """
import json, os, pathlib, time
folder = pathlib.Path(os.environ["FOLDER"])
try:
    (folder / "first").touch(exist_ok=False)
    while not (folder / "go").exists():
        time.sleep(0.01)
except FileExistsError:
    pass
print(json.dumps({"event": "service.ready", "port": 1, "admin_port": 2}), flush=True)
"""


async def test_progress_counts_replicas_in_the_order_in_which_they_are_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow replica does not hide the others: the count rises with every replica."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    started = [Replica(name, command=[sys.executable, "-c", _ONE_WAITS]) for name in "abc"]
    stages: list[str] = []

    def on_progress(stage: str) -> None:
        stages.append(stage)
        if stage == "replicas ready: 2 of 3":
            (tmp_path / "go").touch()

    await start_replicas(started, {**os.environ, "FOLDER": str(tmp_path)}, on_progress)
    assert stages == [f"replicas ready: {number} of 3" for number in range(4)]
    for each in started:
        await each.stop()


async def test_stop_of_a_replica_that_was_not_started() -> None:
    """When a replica fails to start, all replicas are stopped alike."""
    replica = Replica("one")
    await replica.stop()
    assert replica.port == 0


def test_parse_counters_reads_the_policy_of_the_demonstration() -> None:
    """Other policies and other metrics are not counted."""
    text = """\
# TYPE fleetlimit_decisions_total counter
fleetlimit_decisions_total{policy="exports",outcome="allowed"} 12.0
fleetlimit_decisions_total{policy="exports",outcome="denied"} 30.0
fleetlimit_decisions_total{policy="other",outcome="denied"} 5.0
fleetlimit_checks_total{outcome="denied"} 35.0
"""
    assert parse_counters(text) == (12, 30)
