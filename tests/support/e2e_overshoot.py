"""Overshoot (requests admitted above a limit) in any interval, computed from client observations.

A client knows only that a decision happened between sending and response. A request counts for an
interval that contains both times, so the overshoot is never over-reported.
"""

from collections import Counter
from collections.abc import Sequence

from fleetlimit.core.quota import Algorithm, Quota

Interval = tuple[int, int]
"""Times of sending and of the response, in microseconds since the epoch."""


def overshoot(quota: Quota, admitted: Sequence[Interval]) -> int:
    """Return the overshoot of one caller; each admitted request takes one unit.

    For a token bucket it is the maximum over all intervals. For windows, which are aligned to
    multiples of the period, it is the sum over all windows.
    """
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        return max((_beyond(quota, start, admitted) for start, _ in admitted), default=0)
    windows = Counter(
        sent // quota.period_us
        for sent, done in admitted
        if sent // quota.period_us == done // quota.period_us
    )
    return sum(max(0, count - quota.limit) for count in windows.values())


def _beyond(quota: Quota, start: int, admitted: Sequence[Interval]) -> int:
    """Return the maximum overshoot of the intervals from a start to each later response."""
    ends = sorted(done for sent, done in admitted if sent >= start)
    return max(
        count - quota.burst - quota.limit * (end - start) // quota.period_us
        for count, end in enumerate([start, *ends])
    )
