"""Counting answers."""

import pytest

from fleetlimit.demo.results import NO_RESPONSE, Result, Results, percentile_ms


def test_every_answer_counts_for_its_replica_its_caller_and_in_all() -> None:
    """200 is allowed, 429 denied, and everything else an error, no answer included."""
    tally = Results(["one", "two"], ["alice", "bob"])
    for status in (200, 200, 429, 503, 404, NO_RESPONSE):
        tally.add(Result("one", "alice", status, 0.001))
    tally.add(Result("two", "alice", 200, 0.002))
    one, alice = tally.replicas["one"], tally.callers["alice"]
    assert (one.allowed, one.denied, one.errors, one.requests) == (2, 1, 3, 6)
    assert (alice.allowed, alice.denied, alice.errors) == (3, 1, 3)
    assert tally.total == alice
    assert tally.callers["bob"].requests == 0


@pytest.mark.parametrize(("percent", "expected"), [(1, 10), (50, 20), (75, 30), (99, 40)])
def test_a_percentile_is_a_time_that_was_measured(percent: int, expected: float) -> None:
    """The nearest rank is taken, whatever the order of the answers."""
    assert percentile_ms([0.04, 0.01, 0.03, 0.02], percent) == pytest.approx(expected)


def test_without_answers_there_is_no_latency() -> None:
    """An empty tally has a percentile of nought."""
    assert percentile_ms([], 50) == 0
