"""Time series of the plots of the kind suite."""

import math

import pytest

pytest.importorskip("kr8s", reason="the kind suite needs the extra e2e")

from fleetlimit.core.quota import Algorithm, rate_quota
from support import e2e_series as series
from support.e2e_load import Answers, Request, Stream
from support.e2e_tally import Promise
from support.e2e_watch import Reading

BUCKET = rate_quota("60/minute", burst=3)
FIXED = rate_quota("2 per 10 s", algorithm=Algorithm.FIXED_WINDOW)
SECOND = 1_000_000
NAN = pytest.approx(math.nan, nan_ok=True)


def request(at: float, status: int = 200, caller: str = "a", duration: float = 0.0) -> Request:
    """Return a request with its time of sending and duration in seconds."""
    fault = "" if status else "broken"
    stream = Stream("exports", caller, "POST", "/exports", 1)
    return Request(stream, round(at * SECOND), round(duration * SECOND), status, fault)


def answers(*requests: Request) -> Answers:
    return Answers(requests)


def at(*seconds: float) -> list[int]:
    return [round(each * SECOND) for each in seconds]


def reading(second: float, pod: str, **decisions: int) -> Reading:
    return Reading(
        round(second * SECOND), pod, {("exports", name): n for name, n in decisions.items()}
    )


def test_permitted_number_grows_from_first_request_to_last() -> None:
    """A caller's full bucket counts from its first request, its refill until its last response."""
    found = answers(
        request(1), request(5, caller="b"), request(8), request(9, caller="b", duration=1)
    )
    result = series.permitted_to_all(BUCKET, found, at(0, 1, 4.5, 5, 8, 9, 10, 20))
    assert result == [0, 3, 6, 7 + 3, 10 + 6, 10 + 7, 10 + 8, 10 + 8]


def test_window_permits_its_limit_at_its_start() -> None:
    """The whole limit of a window counts from its start."""
    found = answers(request(9), request(31))
    assert series.permitted_to_all(FIXED, found, at(9, 9.9, 10, 19.9, 20)) == [2, 2, 4, 4, 6]


def test_promise_has_lost_state_of_each_caller_and_requests_without_the_store() -> None:
    """Five more for each of two callers, and one at the response to each without the store."""
    found = answers(request(0), request(1, caller="b"), request(2), request(2, 429))
    promise = Promise(without_store={"exports": [(SECOND, 3 * SECOND)]}, lost={"exports": 5})
    assert series.promised_to_all(found, "exports", promise, at(0, 1, 2)) == [10, 11, 12]
    assert series.promised_to_all(found, "exports", Promise(), at(0, 9)) == [0, 0]


def test_overshoot_of_one_caller_is_not_offset_by_another() -> None:
    """One caller gets four of three at once, another none."""
    found = answers(*[request(0, duration=0.1)] * 4, request(0, 429, "b"))
    assert series.overshoot_of_all(BUCKET, found) == 1


def test_clients_count_admitted_requests_at_the_response() -> None:
    """A denial and a request in flight do not count."""
    found = answers(request(0, duration=2), request(1), request(1, 429))
    assert series.admitted_by_clients(found, at(0.5, 1, 2)) == [0, 1, 2]


def test_counts_of_a_pod_are_interpolated_and_stay_after_its_end() -> None:
    """The count is 0 before the first reading and constant after the last; denials do not count."""
    readings = [
        reading(3, "new", allowed=2),
        reading(1, "old", allowed=4, denied=9),
        reading(2, "old", allowed=6, fail_open=4, denied=9),
        Reading(3 * SECOND, "new", {("other", "allowed"): 7}),
    ]
    assert series.admitted_by_pods(readings, "exports", at(0.5, 1, 1.5, 2, 9)) == {
        "old": [0, 4, 7, 10, 10],
        "new": [0, 0, 0, 0, 0],
    }


def test_every_request_has_one_kind() -> None:
    """The rates of all kinds add up to the rate of requests."""
    statuses = (200, 200, 429, 503, 500, 404, 0)
    found = answers(*(request(0.3 * number, each) for number, each in enumerate(statuses)))
    result = series.kinds(found, at(0, 2))
    assert list(result) == list(series.KINDS)
    assert result["200"] == [1.0]
    assert result["other 5xx"] == result["no answer"] == [0.5]
    assert sum(each[0] for each in result.values()) == len(statuses) / 2


def test_kind_without_a_request_is_omitted() -> None:
    """A run with only admitted requests has one kind."""
    assert series.kinds(answers(request(0)), at(0, 1)) == {"200": [1.0]}


def test_latency_is_a_quantile_of_the_responses() -> None:
    """A second without a response has no latency."""
    durations = (0.001, 0.002, 0.009)
    found = answers(*(request(0, duration=each) for each in durations), request(1, 0, duration=5))
    assert series.latencies_ms(found, 0.5, at(0, 1, 2)) == [2.0, NAN]
    assert series.latencies_ms(found, 1.0, at(0, 1, 2)) == [9.0, NAN]


@pytest.mark.parametrize("length", [0, 8, 29, 100, 240, 1_000])
def test_times_cover_a_run_and_include_the_ends_of_windows(length: int) -> None:
    """Any run has at most 102 points; windows of ten seconds end on a point."""
    start = round(1_003.7 * SECOND)
    result = series.times(start, start + length * SECOND)
    assert result[0] <= start
    assert result[-1] >= start + length * SECOND
    assert len(result) <= 102
    assert length < 10 or 1_010 * SECOND in result


def test_times_of_callers_start_with_the_first_request() -> None:
    """No time is before the first request; each caller's first request is included."""
    found = answers(request(1.5), request(2.5, caller="b"), request(2.7))
    assert series.times_of(found, at(1, 2, 3)) == at(1.5, 2, 2.5, 3)


def test_labels_do_not_overlap() -> None:
    """A label moves up if it would overlap another one or cross its line."""
    assert series.rows([0, 10, 20], [5, 5, 5]) == [0, 0, 0]
    assert series.rows([0, 3, 20], [5, 5, 5]) == [1, 0, 0]
    assert series.rows([0, 3, 5], [4, 9, 2]) == [2, 1, 0]
    assert series.rows([], []) == []
