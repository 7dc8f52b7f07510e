"""Counts and percentiles of results."""

import pytest

from fleetlimit.demo.results import NO_RESPONSE, Result, Results, percentile_ms


def test_result_counts_for_its_replica_its_caller_and_in_total() -> None:
    """200 is allowed, 429 denied, and every other status an error, as is no response."""
    results = Results(["one", "two"], ["alice", "bob"])
    for status in (200, 200, 429, 503, 404, NO_RESPONSE):
        results.add(Result("one", "alice", status, 0.001))
    results.add(Result("two", "alice", 200, 0.002))
    one, alice = results.replicas["one"], results.callers["alice"]
    assert (one.allowed, one.denied, one.errors, one.requests) == (2, 1, 3, 6)
    assert (alice.allowed, alice.denied, alice.errors) == (3, 1, 3)
    assert results.total == alice
    assert results.callers["bob"].requests == 0


@pytest.mark.parametrize(("percent", "expected"), [(1, 10), (50, 20), (75, 30), (99, 40)])
def test_percentile_is_the_nearest_rank(percent: int, expected: float) -> None:
    """It is one of the measured latencies, whatever their order."""
    assert percentile_ms([0.04, 0.01, 0.03, 0.02], percent) == pytest.approx(expected)


def test_percentile_without_results_is_zero() -> None:
    """There is no latency without a result."""
    assert percentile_ms([], 50) == 0
