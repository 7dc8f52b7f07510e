"""How limits are cut into slices, which a replica takes in one call and spends by itself.

A slice is spent from its bucket as a whole, before any of it is used, and is used for `life_us` at
most. What is let in within an interval was thus spent from the bucket in it, or up to a life before
it: from a bucket that holds `h`, at most `h + rate * (time + life)`. So that this is no more than
the limit's `burst + rate * time`, the bucket holds less than the burst, by what it gains in a life:
one slice. A window's slice ends with its window, so a window keeps its limit as it is.
"""

from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.errors import ConfigError

MAX_FRACTION = 0.5
_PREFETCHABLE = frozenset({Algorithm.TOKEN_BUCKET, Algorithm.FIXED_WINDOW})


class PrefetchTerms(NamedTuple):
    """Limits that are decided together, and the slices that they are spent in.

    Args:
        quotas: The limits as their buckets are to keep them.
        max_cost: The largest slice, as the cost of a request: each limit's own cost multiplies it.
        lifetime_us: How long a slice may be used, in microseconds from before it was asked for.
    """

    quotas: tuple[Quota, ...]
    max_cost: int
    lifetime_us: int


def prefetch_terms(quotas: tuple[Quota, ...], fraction: float) -> PrefetchTerms:
    """Cut limits into slices.

    Args:
        quotas: Limits that are decided together.
        fraction: The largest part of each that a slice may have, above 0 and at most a half.

    Raises:
        ConfigError: They cannot be cut so; the message says what to write.
    """
    if not 0 < fraction <= MAX_FRACTION:
        raise ConfigError(f"lease is a part of the limit, above 0 and at most 0.5, not {fraction}")
    # As it is written: the double next to 0.29 is a little less, and a unit would be missing.
    part = Fraction(str(fraction))
    units = [int(part * quota.burst) for quota in quotas]
    for quota, size in zip(quotas, units, strict=True):
        if quota.algorithm not in _PREFETCHABLE:
            raise ConfigError(
                f"lease belongs to token_bucket and fixed_window only: leave it out for "
                f"{quota.algorithm}"
            )
        if size < quota.cost:
            raise ConfigError(
                f"a lease of {fraction} of {quota.burst} holds no request: write a larger lease, "
                "limit or burst"
            )
    pairs = list(zip(quotas, units, strict=True))
    return PrefetchTerms(
        quotas=tuple(_reduced_burst(quota, size) for quota, size in pairs),
        max_cost=min(size // quota.cost for quota, size in pairs),
        lifetime_us=min(size * quota.period_us // quota.limit for quota, size in pairs),
    )


def _reduced_burst(quota: Quota, size: int) -> Quota:
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        return replace(quota, burst=quota.burst - size)
    return quota


def refundable_units(quota: Quota, units: int, age_us: int, window_left_us: int) -> int:
    """Return how many units of a slice can be given back as if they had never been taken.

    Args:
        quota: The limit.
        units: What was not used.
        age_us: Time since the slice was taken, rounded up.
        window_left_us: Time from then to the end of the window.
    """
    if quota.algorithm is Algorithm.FIXED_WINDOW:
        return units if age_us < window_left_us else 0
    # A bucket that became full meanwhile has gained them already: never twice.
    return max(0, units - -(-age_us * quota.limit // quota.period_us))
