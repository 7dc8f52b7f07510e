"""Tallies of the kind suite: what was sent in each phase, and what was admitted beyond a limit."""

import pytest

pytest.importorskip("kr8s", reason="the kind suite needs the extra e2e")

from dataclasses import replace
from pathlib import Path

from fleetlimit.core.quota import Algorithm, rate_quota
from support.e2e_load import Answers, Request, Stream
from support.e2e_report import NO_PROMISE, OvershootError, Row, Run
from support.e2e_tally import Offered, Promise, Tally, offered, phases, tally
from support.e2e_watch import Mark, Watch

BUCKET = rate_quota("60/minute", burst=3)
FIXED = rate_quota("2 per 10 s", algorithm=Algorithm.FIXED_WINDOW)
SECOND = 1_000_000
KILLED = Mark(10 * SECOND, "pod killed", begins=True)


def request(at: float, caller: str = "a", status: int = 200, policy: str = "p") -> Request:
    stream = Stream(policy, caller, "GET", "/", 1)
    return Request(stream, round(at * SECOND), 1_000, status, "")


def answers(*requests: Request) -> Answers:
    return Answers(tuple(sorted(requests, key=lambda each: each.sent_us)))


def steady(per_second: float, start: float, end: float, caller: str = "a") -> list[Request]:
    count = round((end - start) * per_second)
    return [request(start + number / per_second, caller) for number in range(count)]


def test_phase_begins_with_its_mark_and_ends_with_the_next() -> None:
    """Other marks begin none, and a mark after the last request has no phase of any caller."""
    found = answers(*steady(4, 1, 20))
    marks = [KILLED, Mark(12 * SECOND, "seen by all"), Mark(30 * SECOND, "much later", begins=True)]
    assert phases(found, marks[:2]) == [
        ("before", SECOND, 10 * SECOND),
        ("pod killed", 10 * SECOND, found.end_us + 1),
    ]
    assert {each.phase for each in offered(found, marks, {"p": BUCKET})} == {"before", "pod killed"}


def test_each_phase_may_begin_with_a_full_bucket() -> None:
    """What is permitted is the burst and the refill of the phase alone; all requests are sent."""
    found = answers(*steady(4, 0, 20, "a"), *steady(2, 0, 20, "b"), request(0, policy="none"))
    assert [(each.phase, each.caller, each.sent, each.permitted) for each in _both(found)] == [
        ("before", "a", 40, 3 + 10),
        ("pod killed", "a", 40, 3 + 9),
        ("before", "b", 20, 3 + 10),
        ("pod killed", "b", 20, 3 + 9),
    ]


def _both(found: Answers) -> list[Offered]:
    return list(offered(found, [KILLED], {"p": BUCKET}))


def test_caller_that_pauses_in_a_phase_has_sent_nothing() -> None:
    """A phase counts for a caller from its first request to its last."""
    marks = [KILLED, Mark(12 * SECOND, "next", begins=True)]
    found = answers(*steady(4, 5, 10), *steady(4, 12, 15), *steady(4, 0, 20, "b"))
    mine = [each for each in offered(found, marks, {"p": FIXED}) if each.caller == "a"]
    assert [(each.phase, each.sent, each.permitted) for each in mine] == [
        ("before", 20, 4),
        ("pod killed", 0, 2),
        ("next", 12, 2),
    ]
    assert [each.share for each in mine] == [5, 0, 6]


def test_overshoot_is_split_by_what_explains_it() -> None:
    """Requests without the store are left out first; lost state explains its number alone."""
    found = answers(*[request(0)] * 7, *[request(1)] * 5)
    without = {"p": [(SECOND, 2 * SECOND)]}
    assert tally("p", BUCKET, found, NO_PROMISE) == Tally(8, 0, 0, 8)
    assert tally("p", BUCKET, found, Promise(without)) == Tally(8, 4, 0, 4)
    assert tally("p", BUCKET, found, Promise(without, {"p": 3})) == Tally(8, 4, 3, 1)
    assert tally("p", BUCKET, found, Promise(without, {"p": 9})) == Tally(8, 4, 4, 0)
    assert tally("q", BUCKET, found, NO_PROMISE) == Tally()


def test_promise_to_one_caller_is_none_to_another() -> None:
    """What one caller does not use, another one must not."""
    found = answers(request(0, "a"), *[request(0, "b")] * 6)
    assert tally("p", BUCKET, found, Promise(lost={"p": 2})) == Tally(3, 0, 2, 1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = answers(*steady(4, 0, 20))
    row = Row("x", 80, 23, 23, 57, {}, Tally(), 0, 0, 0, 0, 1.0, 1.0, (23, 57), 57, {})
    watch = Watch.__new__(Watch)
    watch.folder = tmp_path
    return Run(row, found, watch, {"p": BUCKET}, NO_PROMISE, tuple(_both(found)))


def test_run_with_twice_the_limit_in_each_phase_is_a_proof(run: Run) -> None:
    """Overshoot that is explained is none beyond the promise."""
    run.expect_proof()
    replace(run, row=replace(run.row, tally=Tally(5, 3, 2, 0))).expect_proof()


def test_run_with_too_few_requests_is_no_proof(run: Run) -> None:
    """The message names the phase and the caller."""
    little = replace(run.offered[1], sent=23)
    with pytest.raises(AssertionError, match="phase='pod killed', policy='p', caller='a', sent=23"):
        replace(run, offered=(run.offered[0], little)).expect_proof()
    with pytest.raises(AssertionError, match="no caller sent a request under a policy"):
        replace(run, offered=()).expect_proof()


def test_overshoot_beyond_the_promise_is_an_error_of_its_own(run: Run) -> None:
    """The broken limiters must raise this error, and no other."""
    with pytest.raises(OvershootError, match="beyond_promise=1"):
        replace(run, row=replace(run.row, tally=Tally(5, 2, 2, 1)), offered=()).expect_proof()
