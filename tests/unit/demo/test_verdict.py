"""The verdict over a run."""

import json

from support.demo import evaluated, results_of


def test_the_limit_holds_when_nobody_got_more_than_permitted() -> None:
    """Three of three admitted, the rest refused, all tallies equal: the limit holds."""
    verdict = evaluated(results_of(200, 200, 429, 200, 429))
    assert verdict.holds
    assert (verdict.admitted, verdict.denied, verdict.overshoot, verdict.errors) == (3, 2, 0, 0)
    assert verdict.permitted == 5
    assert verdict.commands_per_request == 7 / 5


def test_one_callers_thrift_does_not_pay_for_another() -> None:
    """A caller above its permit is overshoot, although both together are below theirs."""
    verdict = evaluated(results_of(200, 200, 200, 200))
    assert verdict.admitted < verdict.permitted
    assert verdict.overshoot == 1
    assert not verdict.holds


def test_tallies_that_differ_prove_nothing() -> None:
    """A refusal that a replica's log does not have is a failure of the run (rule 9)."""
    verdict = evaluated(results_of(200, 429, 429), lost_in_log=1)
    assert verdict.overshoot == 0
    assert not verdict.tallies_agree
    assert not verdict.holds


def test_a_run_in_which_nothing_was_decided_proves_nothing() -> None:
    """Errors alone do not show that a limit holds."""
    verdict = evaluated(results_of(503, 0))
    assert verdict.errors == 2
    assert not verdict.holds


def test_some_errors_do_not_break_the_limit() -> None:
    """A 5xx is told, and the limit still holds."""
    verdict = evaluated(results_of(200, 503, 429))
    assert verdict.errors == 1
    assert verdict.holds


def test_the_json_has_the_whole_verdict() -> None:
    """A script reads totals, one row for each replica and caller, and the three tallies."""
    told = json.loads(json.dumps(evaluated(results_of(200, 200, 429, 200, 429)).as_json()))
    assert {name: told[name] for name in ("permitted", "admitted", "overshoot", "errors")} == {
        "permitted": 5,
        "admitted": 3,
        "overshoot": 0,
        "errors": 0,
    }
    assert [(row["name"], row["allowed"], row["denied"]) for row in told["replicas"]] == [
        ("replica-1", 1, 2),
        ("replica-2", 2, 0),
    ]
    assert [(row["name"], row["overshoot"]) for row in told["principals"]] == [
        ("alice", 0),
        ("bob", 0),
    ]
    assert told["tallies"] == {
        "responses": {"allowed": 3, "denied": 2},
        "metrics": {"allowed": 3, "denied": 2},
        "logs": {"denied": 2},
    }
    assert (told["p50_ms"], told["p99_ms"], told["seconds"]) == (3, 5, 2)


def test_without_a_store_its_commands_are_not_known() -> None:
    """The JSON has null in place of a number that nobody counted."""
    assert evaluated(results_of(200), calls=None).as_json()["redis_commands_per_request"] is None
