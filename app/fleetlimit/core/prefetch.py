"""Prefetch terms: how many units a replica may acquire ahead, and for how long it may spend them.

A replica acquires a prefetch in one call and spends it locally, for at most `lifetime`. No schedule
of replicas admits more than the limit permits. For a token bucket:

1. A prefetch at time `a` is spent from the bucket as if it were `a + lifetime` already: the time at
   which the bucket is full (its TAT) becomes `max(TAT, a + lifetime) + units * T`.
2. Compare a bucket from which each unit is spent at its use, at a time up to `a + lifetime`. A use
   at `b` makes its TAT `max(TAT, b) + T`, which is at most what it is in 1, because both terms of
   the maximum are. So the bucket in 1 never holds more units than the compared one.
3. What the bucket in 1 permits, the compared one permits too, and that is the limit itself.

The bucket gains no unit during the lifetime if it was full before, and refuses nothing for it
otherwise. A prefetch that is used at once, by the checks that wait for it, needs no lifetime. The
units of a fixed window may be used until the window ends.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.errors import ConfigError

PrefetchSpec = float | Literal["auto", "off"]
"""Largest part of each limit that a replica acquires ahead, or `auto` for buckets in demand."""
MAX_FRACTION: Final = 0.5
AUTO_FRACTION: Final = Fraction(1, 16)
"""Largest part of a limit that `auto` acquires ahead."""
AUTO_LIFETIME_US: Final = SECOND_US
"""Longest time in which units that `auto` has acquired may be spent."""
PREFETCHABLE: Final = frozenset({Algorithm.TOKEN_BUCKET, Algorithm.FIXED_WINDOW})
"""Algorithms whose units can be acquired ahead."""


@dataclass(frozen=True, slots=True)
class PrefetchTerms:
    """Terms of prefetching for quotas that are decided together.

    Args:
        max_cost: Largest prefetch, in units of a request's cost; multiplied by the cost of each
            quota.
        lifetime_us: How long a prefetch may be spent, in microseconds since its request was sent.
        on_demand: Whether only buckets are prefetched that this replica has asked repeatedly.
    """

    max_cost: int
    lifetime_us: int
    on_demand: bool = False

    def together(self, other: "PrefetchTerms") -> "PrefetchTerms":
        """Return the terms of quotas that are decided together with those of other terms."""
        return PrefetchTerms(
            min(self.max_cost, other.max_cost),
            min(self.lifetime_us, other.lifetime_us),
            self.on_demand or other.on_demand,
        )


def prefetch_terms(quotas: tuple[Quota, ...], prefetch: object) -> PrefetchTerms | None:
    """Return the terms on which a replica prefetches from these quotas; None for none.

    Args:
        quotas: Quotas that are decided together.
        prefetch: A `PrefetchSpec`: the largest part of each limit that a prefetch may hold, above 0
            and at most 0.5; or `auto`, which leaves out quotas that cannot be prefetched; or `off`.
            An object, because compiled code rejects other types with messages of its own.

    Raises:
        ConfigError: The quotas cannot be prefetched; the message says what to write.
    """
    if prefetch == "off":
        return None
    if prefetch == "auto":
        return _auto_terms(quotas)
    return _fixed_terms(quotas, prefetch)


def _auto_terms(quotas: tuple[Quota, ...]) -> PrefetchTerms | None:
    if any(quota.algorithm not in PREFETCHABLE for quota in quotas):
        return None
    terms = _terms(quotas, [int(AUTO_FRACTION * quota.burst) for quota in quotas])
    # A prefetch of one request is the call that the store gets without a prefetch.
    if terms.max_cost <= 1:
        return None
    lifetime_us = min(AUTO_LIFETIME_US, terms.lifetime_us)
    return PrefetchTerms(terms.max_cost, lifetime_us, on_demand=True)


def _fixed_terms(quotas: tuple[Quota, ...], fraction: object) -> PrefetchTerms:
    if (
        isinstance(fraction, bool)
        or not isinstance(fraction, int | float)
        or not 0 < fraction <= MAX_FRACTION
    ):
        raise ConfigError(
            'prefetch is "auto", "off", or a number above 0 and at most 0.5, as a part of the '
            f"limit, not {fraction!r}"
        )
    # The decimal that was written: the double next to 0.29 is below it and would lose a unit.
    exact = Fraction(str(fraction))
    sizes = [int(exact * quota.burst) for quota in quotas]
    for quota, size in zip(quotas, sizes, strict=True):
        if quota.algorithm not in PREFETCHABLE:
            raise ConfigError(
                f"prefetch belongs to token_bucket and fixed_window only: leave it out for "
                f"{quota.algorithm}"
            )
        if size < quota.cost:
            raise ConfigError(
                f"a prefetch of {fraction} of {quota.burst} holds no request: write a larger "
                "prefetch, limit or burst"
            )
    return _terms(quotas, sizes)


def _terms(quotas: tuple[Quota, ...], sizes: list[int]) -> PrefetchTerms:
    pairs = list(zip(quotas, sizes, strict=True))
    return PrefetchTerms(
        max_cost=min(size // quota.cost for quota, size in pairs),
        lifetime_us=min(size * quota.period_us // quota.limit for quota, size in pairs),
    )


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
