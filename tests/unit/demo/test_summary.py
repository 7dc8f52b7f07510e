"""Summary of a run."""

import json

from support.demo import results_of, summary_of


def test_limit_holds_without_overshoot() -> None:
    """Three of three admitted, the other requests rejected, and all counts equal."""
    summary = summary_of(results_of(200, 200, 429, 200, 429))
    assert summary.holds
    assert (summary.admitted, summary.denied, summary.overshoot, summary.errors) == (3, 2, 0, 0)
    assert summary.permitted == 5
    assert summary.commands_per_request == 7 / 5


def test_overshoot_of_one_caller_is_not_offset_by_another() -> None:
    """A caller above its limit is overshoot, even if all callers together are below theirs."""
    summary = summary_of(results_of(200, 200, 200, 200))
    assert summary.admitted < summary.permitted
    assert summary.overshoot == 1
    assert not summary.holds


def test_different_counts_fail_the_run() -> None:
    """A denial that is missing in a replica's log is a failure of the run."""
    summary = summary_of(results_of(200, 429, 429), lost_in_log=1)
    assert summary.overshoot == 0
    assert not summary.tallies_agree
    assert not summary.holds


def test_run_without_decisions_fails() -> None:
    """Errors alone do not show that a limit holds."""
    summary = summary_of(results_of(503, 0))
    assert summary.errors == 2
    assert not summary.holds


def test_errors_do_not_fail_the_run() -> None:
    """A 5xx response is reported, and the limit still holds."""
    summary = summary_of(results_of(200, 503, 429))
    assert summary.errors == 1
    assert summary.holds


def test_json_has_totals_rows_and_counts() -> None:
    """A script reads totals, one row for each replica and caller, and the counts of each source."""
    summary = json.loads(json.dumps(summary_of(results_of(200, 200, 429, 200, 429)).as_json()))
    assert {name: summary[name] for name in ("permitted", "admitted", "overshoot", "errors")} == {
        "permitted": 5,
        "admitted": 3,
        "overshoot": 0,
        "errors": 0,
    }
    assert [(row["name"], row["allowed"], row["denied"]) for row in summary["replicas"]] == [
        ("replica-1", 1, 2),
        ("replica-2", 2, 0),
    ]
    assert [(row["name"], row["overshoot"]) for row in summary["principals"]] == [
        ("alice", 0),
        ("bob", 0),
    ]
    assert summary["tallies"] == {
        "responses": {"allowed": 3, "denied": 2},
        "metrics": {"allowed": 3, "denied": 2},
        "logs": {"denied": 2},
    }
    assert (summary["p50_ms"], summary["p99_ms"], summary["seconds"]) == (3, 5, 2)


def test_json_has_null_commands_without_a_server() -> None:
    """`memory://` has no server that counts commands."""
    assert summary_of(results_of(200), calls=None).as_json()["redis_commands_per_request"] is None
