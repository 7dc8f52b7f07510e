"""What a policy permits in a time, worked out from its limits alone and not from the limiter."""

from collections.abc import Sequence

from fleetlimit.core.quota import Algorithm, Quota


def max_admitted(quotas: Sequence[Quota], start_us: int, end_us: int) -> int:
    """Return the most requests of cost 1 that all limits let in from start to end.

    Args:
        quotas: The limits, whose buckets are full at the start.
        start_us: Microseconds since the epoch, on the store's clock.
        end_us: The same; not before the start.
    """
    return min(_max_admitted(quota, start_us, end_us) for quota in quotas)


def _max_admitted(quota: Quota, start_us: int, end_us: int) -> int:
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        return quota.burst + quota.limit * (end_us - start_us) // quota.period_us
    # Windows start at multiples of the period since the epoch.
    windows = end_us // quota.period_us - start_us // quota.period_us + 1
    return quota.limit * windows
