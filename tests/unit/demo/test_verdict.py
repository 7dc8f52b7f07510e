"""Verdict of a run."""

import json

from support.demo import evaluated, results_of


def test_limit_holds_without_overshoot() -> None:
    """Three of three admitted, the other requests rejected, and all counts equal."""
    result = evaluated(results_of(200, 200, 429, 200, 429))
    assert result.holds
    assert (result.admitted, result.denied, result.overshoot, result.errors) == (3, 2, 0, 0)
    assert result.permitted == 5
    assert result.commands_per_request == 7 / 5


def test_overshoot_of_one_caller_is_not_offset_by_another() -> None:
    """A caller above its limit is overshoot, even if all callers together are below theirs."""
    result = evaluated(results_of(200, 200, 200, 200))
    assert result.admitted < result.permitted
    assert result.overshoot == 1
    assert not result.holds


def test_different_counts_fail_the_run() -> None:
    """A denial that is missing in a replica's log is a failure of the run (rule 9)."""
    result = evaluated(results_of(200, 429, 429), lost_in_log=1)
    assert result.overshoot == 0
    assert not result.tallies_agree
    assert not result.holds


def test_run_without_decisions_fails() -> None:
    """Errors alone do not show that a limit holds."""
    result = evaluated(results_of(503, 0))
    assert result.errors == 2
    assert not result.holds


def test_errors_do_not_fail_the_run() -> None:
    """A 5xx response is reported, and the limit still holds."""
    result = evaluated(results_of(200, 503, 429))
    assert result.errors == 1
    assert result.holds


def test_json_has_totals_rows_and_counts() -> None:
    """A script reads totals, one row for each replica and caller, and the counts of each source."""
    result = json.loads(json.dumps(evaluated(results_of(200, 200, 429, 200, 429)).as_json()))
    assert {name: result[name] for name in ("permitted", "admitted", "overshoot", "errors")} == {
        "permitted": 5,
        "admitted": 3,
        "overshoot": 0,
        "errors": 0,
    }
    assert [(row["name"], row["allowed"], row["denied"]) for row in result["replicas"]] == [
        ("replica-1", 1, 2),
        ("replica-2", 2, 0),
    ]
    assert [(row["name"], row["overshoot"]) for row in result["principals"]] == [
        ("alice", 0),
        ("bob", 0),
    ]
    assert result["tallies"] == {
        "responses": {"allowed": 3, "denied": 2},
        "metrics": {"allowed": 3, "denied": 2},
        "logs": {"denied": 2},
    }
    assert (result["p50_ms"], result["p99_ms"], result["seconds"]) == (3, 5, 2)


def test_json_has_null_commands_without_a_server() -> None:
    """`memory://` has no server that counts commands."""
    assert evaluated(results_of(200), calls=None).as_json()["redis_commands_per_request"] is None
