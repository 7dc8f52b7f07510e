"""Overshoot (requests admitted above a limit) in any interval, computed from client observations.

A client knows only that a decision happened between sending and response. A request counts for an
interval that contains both times, so the overshoot is never over-reported.
"""

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from operator import sub

from fleetlimit.core.quota import Algorithm, Quota

Interval = tuple[int, int]
"""Times of sending and of the response, in microseconds since the epoch."""


def overshoot(quota: Quota, admitted: Sequence[Interval]) -> int:
    """Return the overshoot of one caller; each admitted request takes one unit.

    For a token bucket it is the maximum over all intervals. For windows, which are aligned to
    multiples of the period, it is the sum over all windows.
    """
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        return _most_beyond(quota, admitted)
    windows = Counter(
        sent // quota.period_us
        for sent, done in admitted
        if sent // quota.period_us == done // quota.period_us
    )
    return sum(max(0, count - quota.limit) for count in windows.values())


def _most_beyond(quota: Quota, admitted: Sequence[Interval]) -> int:
    """Return the maximum overshoot of the intervals from each sending to each later response.

    With n requests up to the end, it is n - burst - floor(limit * (end - start) / period), which is
    ceil((n * period - limit * end + limit * start) / period) - burst. Of one start, the largest
    n * period - limit * end has the largest overshoot.
    """
    most, ends = 0, list[int]()
    counts = range(quota.period_us, quota.period_us * (len(admitted) + 1), quota.period_us)
    for start, end in sorted(admitted, reverse=True):
        insort(ends, quota.limit * end)
        units = max(map(sub, counts, ends)) + quota.limit * start
        most = max(most, -(-units // quota.period_us) - quota.burst)
    return most
