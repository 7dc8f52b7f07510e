"""What a replica's log tells."""

import json

from fleetlimit.demo.replicas import Replica
from fleetlimit.demo.scrape import parse_counters


def test_a_replica_tells_its_ports_when_it_is_ready() -> None:
    """Both ports are read from the line that the service writes once it accepts."""
    replica = Replica("one")
    replica.on_log_line("no JSON at all")
    replica.on_log_line('"JSON, but no event"')
    replica.on_log_line(json.dumps({"event": "service.ready", "port": 8001, "admin_port": 9001}))
    assert (replica.port, replica.admin_port) == (8001, 9001)


def test_refusals_in_the_log_are_counted_with_those_left_out() -> None:
    """A flood is sampled, and its summary says how many lines are missing."""
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


async def test_a_replica_that_was_never_started_needs_no_stopping() -> None:
    """A fleet that fails half way stops all of its replicas alike."""
    replica = Replica("one")
    await replica.stop()
    assert replica.port == 0


def test_the_counters_of_the_policy_are_read_and_no_others() -> None:
    """Of a replica's metrics the demonstration's own policy counts."""
    text = """\
# TYPE fleetlimit_decisions_total counter
fleetlimit_decisions_total{policy="exports",outcome="allowed"} 12.0
fleetlimit_decisions_total{policy="exports",outcome="denied"} 30.0
fleetlimit_decisions_total{policy="other",outcome="denied"} 5.0
fleetlimit_checks_total{outcome="denied"} 35.0
"""
    assert parse_counters(text) == (12, 30)
