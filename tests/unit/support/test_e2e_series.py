"""What the kind suite draws is what its clients and pods said, and what the limits permit."""

import math

import pytest

pytest.importorskip("kr8s", reason="the kind suite needs the extra e2e")

from fleetlimit.core.quota import Algorithm, rate_quota
from support import e2e_series as series
from support.e2e_load import Answers, Request, Stream
from support.e2e_watch import Look

BUCKET = rate_quota("60/minute", burst=3)
FIXED = rate_quota("2 per 10 s", algorithm=Algorithm.FIXED_WINDOW)
SECOND = 1_000_000
NAN = pytest.approx(math.nan, nan_ok=True)


def asked(at: float, status: int = 200, caller: str = "a", taken: float = 0.0) -> Request:
    """Return a request that was sent at a second and took this many seconds."""
    fault = "" if status else "broken"
    stream = Stream("exports", caller, "POST", "/exports", 1)
    return Request(stream, round(at * SECOND), round(taken * SECOND), status, fault)


def answers(*requests: Request) -> Answers:
    return Answers(requests)


def at(*seconds: float) -> list[int]:
    return [round(each * SECOND) for each in seconds]


def look(second: float, pod: str, **decisions: int) -> Look:
    return Look(
        round(second * SECOND), pod, {("exports", name): n for name, n in decisions.items()}
    )


def test_a_caller_is_permitted_something_from_its_first_request_to_its_last() -> None:
    """Each caller's full bucket counts from its first request, its refill until its last answer."""
    found = answers(asked(1), asked(5, caller="b"), asked(8), asked(9, caller="b", taken=1))
    told = series.permitted_to_all(BUCKET, found, at(0, 1, 4.5, 5, 8, 9, 10, 20))
    assert told == [0, 3, 6, 7 + 3, 10 + 6, 10 + 7, 10 + 8, 10 + 8]


def test_windows_permit_at_their_start() -> None:
    """A window's whole limit is there from its first moment on."""
    found = answers(asked(9), asked(31))
    assert series.permitted_to_all(FIXED, found, at(9, 9.9, 10, 19.9, 20)) == [2, 2, 4, 4, 6]


def test_what_a_caller_may_get_beyond_counts_for_each_caller() -> None:
    """Two callers that may have five more each have ten more."""
    found = answers(asked(0), asked(0, caller="b"))
    assert series.permitted_to_all(BUCKET, found, at(0), beyond=5) == [16]


def test_overshoot_of_one_caller_is_not_made_up_for_by_another() -> None:
    """One got four of three at once, another nothing; what may be beyond is not counted."""
    found = answers(*[asked(0, taken=0.1)] * 4, asked(0, 429, "b"))
    assert series.overshoot_of_all(BUCKET, found) == 1
    assert series.overshoot_of_all(BUCKET, found, beyond=1) == 0


def test_clients_count_what_was_let_in_once_it_is_answered() -> None:
    """A refusal and a request under way count for nothing."""
    found = answers(asked(0, taken=2), asked(1), asked(1, 429))
    assert series.let_in_by_clients(found, at(0.5, 1, 2)) == [0, 1, 2]


def test_a_pod_lets_in_evenly_between_two_looks_and_stays_when_it_is_gone() -> None:
    """Before the first look it is nothing, after the last what it was; refusals are left out."""
    looks = [
        look(3, "new", allowed=2),
        look(1, "old", allowed=4, denied=9),
        look(2, "old", allowed=6, fail_open=4, denied=9),
        Look(3 * SECOND, "new", {("other", "allowed"): 7}),
    ]
    assert series.let_in_by_pods(looks, "exports", at(0.5, 1, 1.5, 2, 9)) == {
        "old": [0, 4, 7, 10, 10],
        "new": [0, 0, 0, 0, 0],
    }


def test_every_request_is_of_one_kind() -> None:
    """The kinds of a time add up to all that was sent in it, for each second."""
    statuses = (200, 200, 429, 503, 500, 404, 0)
    found = answers(*(asked(0.3 * number, each) for number, each in enumerate(statuses)))
    told = series.kinds(found, at(0, 2))
    assert list(told) == list(series.KINDS)
    assert told["200"] == [1.0]
    assert told["other 5xx"] == told["no answer"] == [0.5]
    assert sum(each[0] for each in told.values()) == len(statuses) / 2


def test_a_kind_that_there_was_not_is_left_out() -> None:
    """A run in which all was let in has one kind."""
    assert series.kinds(answers(asked(0)), at(0, 1)) == {"200": [1.0]}


def test_latency_is_that_of_answers() -> None:
    """A share of each second's answers; a second without an answer has no latency."""
    taken = (0.001, 0.002, 0.009)
    found = answers(*(asked(0, taken=each) for each in taken), asked(1, 0, taken=5))
    assert series.latencies_ms(found, 0.5, at(0, 1, 2)) == [2.0, NAN]
    assert series.latencies_ms(found, 1.0, at(0, 1, 2)) == [9.0, NAN]


@pytest.mark.parametrize("length", [0, 8, 29, 100, 240, 1_000])
def test_times_cover_a_run_and_meet_the_ends_of_windows(length: int) -> None:
    """However long a run is, its picture has few points, and steps at ten seconds are upright."""
    start = round(1_003.7 * SECOND)
    told = series.times(start, start + length * SECOND)
    assert told[0] <= start
    assert told[-1] >= start + length * SECOND
    assert len(told) <= 102
    assert length < 10 or 1_010 * SECOND in told


def test_times_of_callers_begin_with_the_first_of_them() -> None:
    """Nothing is before the first request, and each caller's first is among the times."""
    found = answers(asked(1.5), asked(2.5, caller="b"), asked(2.7))
    assert series.times_of(found, at(1, 2, 3)) == at(1.5, 2, 2.5, 3)


def test_labels_keep_out_of_each_others_way() -> None:
    """What would overlap, or be crossed by the line below another, goes into a row above."""
    assert series.rows([0, 10, 20], [5, 5, 5]) == [0, 0, 0]
    assert series.rows([0, 3, 20], [5, 5, 5]) == [1, 0, 0]
    assert series.rows([0, 3, 5], [4, 9, 2]) == [2, 1, 0]
    assert series.rows([], []) == []
