"""What was let in beyond a limit, in any interval, by what its client saw and nothing else.

When a request was decided is known only as a time between its sending and its answer. It counts for
an interval when both are inside, so nothing is reported that a later decision could explain.
"""

from collections import Counter
from collections.abc import Sequence

from fleetlimit.core.quota import Algorithm, Quota

Interval = tuple[int, int]
"""When a request was sent, and when it was answered, in microseconds since the epoch."""


def overshoot(quota: Quota, admitted: Sequence[Interval]) -> int:
    """Return the requests of one caller that were let in beyond its limit.

    For a token bucket, the most of any interval; for windows, which are aligned to multiples of the
    period, the sum of all windows.

    Args:
        quota: The limit, of which each request takes one unit.
        admitted: The requests that were let in.
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
    """Return the most beyond the bucket in the intervals from a start to each answer after it."""
    ends = sorted(done for sent, done in admitted if sent >= start)
    return max(
        count - quota.burst - quota.limit * (end - start) // quota.period_us
        for count, end in enumerate([start, *ends])
    )
