"""What a run did over time, as numbers to draw: no picture is made here."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from fleetlimit.core.decision import Outcome
from fleetlimit.core.quota import Quota
from fleetlimit.demo.expected import max_admitted
from support.e2e_load import Answers
from support.e2e_overshoot import overshoot
from support.e2e_watch import Look

KINDS: Final = ("200", "429", "503", "other 5xx", "other", "no answer")
"""What becomes of a request, each under one name."""

_LET_IN = (Outcome.ALLOWED, Outcome.FAIL_OPEN)
_NAMED = {200: "200", 429: "429", 503: "503", 0: "no answer"}
_SERVER_ERROR = 500
# The windows of the experiments are whole multiples of the shorter ones, so they end on the grid.
_STEPS_US = (250_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000)
_MOST = 100


def times(start_us: int, end_us: int, *, least_us: int = _STEPS_US[0]) -> list[int]:
    """Return times at even steps from the last round one before a start to the end or after.

    Args:
        start_us: Microseconds since the epoch.
        end_us: The same; not before the start.
        least_us: The shortest step.
    """
    steps = [step for step in _STEPS_US if step >= least_us]
    step = next((each for each in steps if end_us - start_us <= _MOST * each), steps[-1])
    return list(range(start_us // step * step, end_us + step, step))


def times_of(answers: Answers, at: Sequence[int]) -> list[int]:
    """Return the times from the first request on, with that of each caller's first request."""
    firsts = {mine.start_us for mine in _by_caller(answers)}
    return sorted({*firsts, *(each for each in at if each > min(firsts))})


def let_in_by_clients(answers: Answers, at: Sequence[int]) -> list[int]:
    """Return how many requests had been answered as let in at each time."""
    done = sorted(done_us for _, done_us in answers.let_in)
    return [bisect_right(done, each) for each in at]


def let_in_by_pods(
    looks: Sequence[Look], policy: str, at: Sequence[int]
) -> Mapping[str, list[float]]:
    """Return what each pod had let in under a policy at each time, in order of appearance.

    It is on a straight line between two looks. Before the first look it is nothing; after the last
    it stays what it was, because what a pod let in is spent even when the pod is gone.
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for look in sorted(looks, key=lambda each: each.at_us):
        count = sum(look.decisions.get((policy, outcome), 0) for outcome in _LET_IN)
        seen.setdefault(look.pod, []).append((look.at_us, count))
    return {pod: [_between(points, each) for each in at] for pod, points in seen.items()}


def permitted_to_all(
    quota: Quota, answers: Answers, at: Sequence[int], *, beyond: int = 0
) -> list[int]:
    """Return how many requests a limit had permitted to all its callers at each time.

    What a caller is permitted begins with its first request and ends with its last.

    Args:
        quota: The limit of each caller.
        answers: What became of the requests under that limit.
        at: Microseconds since the epoch.
        beyond: What each caller may get above that, from its first request on.
    """
    spans = [(mine.start_us, mine.end_us) for mine in _by_caller(answers)]
    return [
        sum(
            max_admitted([quota], start, min(each, end)) + beyond
            for start, end in spans
            if start <= each
        )
        for each in at
    ]


def overshoot_of_all(quota: Quota, answers: Answers, *, beyond: int = 0) -> int:
    """Return the requests of all callers that were let in beyond a limit.

    Args:
        quota: The limit of each caller.
        answers: What became of the requests under that limit.
        beyond: What each caller may get above that.
    """
    return sum(max(0, overshoot(quota, mine.let_in) - beyond) for mine in _by_caller(answers))


def kinds(answers: Answers, at: Sequence[int]) -> Mapping[str, list[float]]:
    """Return for each kind of answer that there was how many a second, from each time to the next.

    A request counts for when it was sent.
    """
    found = [
        [_kind(each.status) for each in answers.between(start, end).requests]
        for start, end in pairwise(at)
    ]
    seconds = (at[1] - at[0]) / 1_000_000
    counts = {kind: [each.count(kind) / seconds for each in found] for kind in KINDS}
    return {kind: each for kind, each in counts.items() if any(each)}


def latencies_ms(answers: Answers, share: float, at: Sequence[int]) -> list[float]:
    """Return the milliseconds that a share of the answers took at most, from each time to the next.

    It is not a number where nothing was answered.

    Args:
        answers: Of all requests; a request counts for when it was sent.
        share: Of the answers, at most 1.
        at: Microseconds since the epoch.
    """
    found = (answers.between(start, end) for start, end in pairwise(at))
    return [each.slowest_ms(share) or float("nan") for each in found]


def rows(starts: Sequence[float], lengths: Sequence[float]) -> list[int]:
    """Return for each label the lowest row where it is in no other's way.

    From where it starts a line goes down through the rows below, which no label may cross either.

    Args:
        starts: Where each label starts, in ascending order.
        lengths: How long each is, the gap after it included.
    """
    free: list[float] = []
    found: list[int] = []
    for start, length in zip(reversed(starts), reversed(lengths), strict=True):
        rows_free = (row for row, until in enumerate(free) if start + length <= until)
        row = next(rows_free, len(free))
        free[: row + 1] = [start] * (row + 1)
        found.append(row)
    return found[::-1]


def _by_caller(answers: Answers) -> list[Answers]:
    return [
        answers.of(caller=caller) for caller in {each.stream.caller for each in answers.requests}
    ]


def _between(points: Sequence[tuple[int, int]], at_us: int) -> float:
    after = bisect_right(points, at_us, key=lambda point: point[0])
    if not after:
        return 0
    (start, low), (end, high) = points[after - 1], points[min(after, len(points) - 1)]
    return low if start == end else low + (high - low) * (at_us - start) / (end - start)


def _kind(status: int) -> str:
    return _NAMED.get(status, "other 5xx" if status >= _SERVER_ERROR else "other")
