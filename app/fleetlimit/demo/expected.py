"""Expected maximum of admitted requests, computed from the limits without the limiter's code."""

from collections.abc import Sequence

from fleetlimit.core.quota import Algorithm, Quota


def max_admitted(quotas: Sequence[Quota], start_us: int, end_us: int) -> int:
    """Return the maximum number of requests of cost 1 that all limits admit from start to end.

    Args:
        quotas: The limits, whose buckets are full at the start.
        start_us: Start in microseconds since the epoch, on the store's clock.
        end_us: End on the same clock, not before the start.
    """
    return min(_max_admitted(quota, start_us, end_us) for quota in quotas)


def _max_admitted(quota: Quota, start_us: int, end_us: int) -> int:
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        return quota.burst + quota.limit * (end_us - start_us) // quota.period_us
    # Fixed windows start at multiples of the period since the epoch.
    windows = end_us // quota.period_us - start_us // quota.period_us + 1
    return quota.limit * windows
