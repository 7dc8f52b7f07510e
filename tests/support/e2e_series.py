"""Time series of a run for the plots, computed from client results and counter readings."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from fleetlimit.core.decision import Outcome
from fleetlimit.core.quota import Quota
from fleetlimit.demo.expected import max_admitted
from support.e2e_load import Answers
from support.e2e_overshoot import overshoot
from support.e2e_tally import Promise, by_caller
from support.e2e_watch import Reading

KINDS: Final = ("200", "429", "503", "other 5xx", "other", "no answer")
"""Kinds of results of a request."""

_ADMITTED = (Outcome.ALLOWED, Outcome.FAIL_OPEN)
_NAMED = {200: "200", 429: "429", 503: "503", 0: "no answer"}
_SERVER_ERROR = 500
# The windows of the experiments are multiples of the shorter steps, so they end on the grid.
_STEPS_US = (250_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000)
_MOST = 100


def times(start_us: int, end_us: int, *, least_us: int = _STEPS_US[0]) -> list[int]:
    """Return equidistant times that cover a range, on multiples of a step from `least_us` on."""
    steps = [step for step in _STEPS_US if step >= least_us]
    step = next((each for each in steps if end_us - start_us <= _MOST * each), steps[-1])
    return list(range(start_us // step * step, end_us + step, step))


def times_of(answers: Answers, at: Sequence[int]) -> list[int]:
    """Return the times after the first request, and the time of each caller's first request."""
    firsts = {mine.start_us for mine in by_caller(answers)}
    return sorted({*firsts, *(each for each in at if each > min(firsts))})


def admitted_by_clients(answers: Answers, at: Sequence[int]) -> list[int]:
    """Return the number of responses to admitted requests until each time."""
    done = sorted(done_us for _, done_us in answers.admitted_spans)
    return [bisect_right(done, each) for each in at]


def admitted_by_pods(
    readings: Sequence[Reading], policy: str, at: Sequence[int]
) -> Mapping[str, list[float]]:
    """Return the number of requests that each pod had admitted under a policy at each time.

    Between two readings of a counter the number is interpolated. It is 0 before the first reading
    and constant after the last one, because the units stay spent when the pod is gone.
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for reading in sorted(readings, key=lambda each: each.at_us):
        count = sum(reading.decisions.get((policy, outcome), 0) for outcome in _ADMITTED)
        seen.setdefault(reading.pod, []).append((reading.at_us, count))
    return {pod: [_between(points, each) for each in at] for pod, points in seen.items()}


def permitted_to_all(quota: Quota, answers: Answers, at: Sequence[int]) -> list[int]:
    """Return the number of requests that a limit had permitted to all callers at each time.

    The permitted number of a caller grows from its first request to its last.
    """
    spans = [(mine.start_us, mine.end_us) for mine in by_caller(answers)]
    return [
        sum(max_admitted([quota], start, min(each, end)) for start, end in spans if start <= each)
        for each in at
    ]


def promised_to_all(
    answers: Answers, policy: str, promise: Promise, at: Sequence[int]
) -> list[int]:
    """Return the requests beyond its limit that a policy was promised to admit until each time.

    They are the requests that it admitted without the store, and those that lost state admits again
    to each caller, from the first request on.
    """
    mine = answers.of(policy=policy)
    spans = promise.without_store.get(policy, ())
    without_store = sorted(
        done_us
        for sent_us, done_us in mine.admitted_spans
        if any(start_us <= sent_us < end_us for start_us, end_us in spans)
    )
    lost = promise.lost.get(policy, 0) * len(by_caller(mine))
    return [bisect_right(without_store, each) + lost for each in at]


def overshoot_of_all(quota: Quota, answers: Answers) -> int:
    """Return the sum of the overshoot of all callers."""
    return sum(overshoot(quota, mine.admitted_spans) for mine in by_caller(answers))


def kinds(answers: Answers, at: Sequence[int]) -> Mapping[str, list[float]]:
    """Return the rate per second of each kind of result, from each time to the next.

    A request counts at the time of sending. Kinds without a request are omitted.
    """
    found = [
        [_kind(each.status) for each in answers.between(start, end).requests]
        for start, end in pairwise(at)
    ]
    seconds = (at[1] - at[0]) / 1_000_000
    counts = {kind: [each.count(kind) / seconds for each in found] for kind in KINDS}
    return {kind: each for kind, each in counts.items() if any(each)}


def latencies_ms(answers: Answers, share: float, at: Sequence[int]) -> list[float]:
    """Return a quantile of the response time in milliseconds, from each time to the next.

    A request counts at the time of sending. A step without a response has NaN.
    """
    found = (answers.between(start, end) for start, end in pairwise(at))
    return [each.slowest_ms(share) or float("nan") for each in found]


def rows(starts: Sequence[float], lengths: Sequence[float]) -> list[int]:
    """Return the lowest row for each label in which it overlaps no other label.

    A vertical line from the start of a label through the rows below must not cross a label either.
    The starts are in ascending order, and the lengths contain the gap after the label.
    """
    free: list[float] = []
    found: list[int] = []
    for start, length in zip(reversed(starts), reversed(lengths), strict=True):
        rows_free = (row for row, until in enumerate(free) if start + length <= until)
        row = next(rows_free, len(free))
        free[: row + 1] = [start] * (row + 1)
        found.append(row)
    return found[::-1]


def _between(points: Sequence[tuple[int, int]], at_us: int) -> float:
    after = bisect_right(points, at_us, key=lambda point: point[0])
    if not after:
        return 0
    (start, low), (end, high) = points[after - 1], points[min(after, len(points) - 1)]
    return low if start == end else low + (high - low) * (at_us - start) / (end - start)


def _kind(status: int) -> str:
    return _NAMED.get(status, "other 5xx" if status >= _SERVER_ERROR else "other")
