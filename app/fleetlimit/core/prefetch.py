"""Prefetch terms: how many units a replica may acquire ahead, and for how long it may spend them.

A replica acquires a prefetch of `size` units in one call and spends it locally, for at most
`lifetime`. The bucket keeps the limit's bound all the same. For a token bucket with capacity
`burst` and `rate`, and an interval of length `t`:

1. A prefetch is spent from the bucket before any of its units admits a request, so units admitted
   in the interval were spent from the bucket in it or up to one lifetime before it.
2. A bucket of capacity `kept` therefore admits at most `kept + rate * (t + lifetime)` units.
3. The limit permits `burst + rate * t`. By 2 it holds if `kept + rate * lifetime <= burst`.
4. `lifetime = size / rate` and `kept = burst - size` satisfy 3: the bucket's capacity is reduced
   by one prefetch.

A fixed window keeps its limit unchanged, because its prefetches expire with the window.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.errors import ConfigError

MAX_FRACTION: Final = 0.5
_PREFETCHABLE: Final = frozenset({Algorithm.TOKEN_BUCKET, Algorithm.FIXED_WINDOW})


@dataclass(frozen=True, slots=True)
class PrefetchTerms:
    """Terms of prefetching for quotas that are decided together.

    Args:
        quotas: The quotas that the buckets are kept with.
        max_cost: Largest prefetch, in units of a request's cost; multiplied by the cost of each
            quota.
        lifetime_us: How long a prefetch may be spent, in microseconds since its request was sent.
    """

    quotas: tuple[Quota, ...]
    max_cost: int
    lifetime_us: int


def prefetch_terms(quotas: tuple[Quota, ...], fraction: float) -> PrefetchTerms:
    """Return the terms on which a replica prefetches from these quotas.

    Args:
        quotas: Quotas that are decided together.
        fraction: Largest part of each limit that a prefetch may hold, above 0 and at most 0.5.

    Raises:
        ConfigError: The quotas cannot be prefetched; the message says what to write.
    """
    if not 0 < fraction <= MAX_FRACTION:
        raise ConfigError(
            f"prefetch is a fraction of the limit, above 0 and at most 0.5, not {fraction}"
        )
    # The decimal that was written: the double next to 0.29 is below it and would lose a unit.
    exact = Fraction(str(fraction))
    sizes = [int(exact * quota.burst) for quota in quotas]
    for quota, size in zip(quotas, sizes, strict=True):
        if quota.algorithm not in _PREFETCHABLE:
            raise ConfigError(
                f"prefetch belongs to token_bucket and fixed_window only: leave it out for "
                f"{quota.algorithm}"
            )
        if size < quota.cost:
            raise ConfigError(
                f"a prefetch of {fraction} of {quota.burst} holds no request: write a larger "
                "prefetch, limit or burst"
            )
    pairs = list(zip(quotas, sizes, strict=True))
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
    """Return how many unused units can be refunded without crediting any of them twice.

    Args:
        quota: The quota.
        units: Unused units of a prefetch.
        age_us: Microseconds since the prefetch was acquired, rounded up.
        window_left_us: Microseconds from the acquisition to the end of the window.
    """
    if quota.algorithm is Algorithm.FIXED_WINDOW:
        return units if age_us < window_left_us else 0
    # A bucket that became full in the meantime has refilled these units already.
    return max(0, units - -(-age_us * quota.limit // quota.period_us))
