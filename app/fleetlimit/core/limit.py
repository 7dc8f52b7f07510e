"""Limits as code writes them, such as `Limit.rate("5/minute")`, and as quotas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fleetlimit.core.calendars import Anchor
from fleetlimit.core.quota import (
    DEFAULT_LEASE_SECONDS,
    SECOND_US,
    UNIT_SECONDS,
    Algorithm,
    Duration,
    Quota,
    concurrency_quota,
    parse_algorithm,
    rate_quota,
)
from fleetlimit.errors import ConfigError

RateAlgorithm = Literal["token_bucket", "fixed_window", "sliding_window", "sliding_log"]
"""Algorithms of a rate."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Limit of a policy. Build it with `Limit.rate` or `Limit.concurrent`.

    Args:
        quota: The limit, resolved to integers.
    """

    quota: Quota

    def __post_init__(self) -> None:
        if not isinstance(self.quota, Quota):
            raise ConfigError(
                f'Limit({self.quota!r}) has no kind: write Limit.rate("5/minute") or '
                "Limit.concurrent(10)"
            )

    @classmethod
    def rate(
        cls,
        rate: str,
        *,
        burst: int | None = None,
        algorithm: RateAlgorithm | None = None,
        cost: int = 1,
        timezone: str | None = None,
        anchor: Anchor | None = None,
    ) -> "Limit":
        """Return a limit of requests per time.

        Args:
            rate: The rate, such as `100/minute`, `100 per 90 s` or `1000/month`.
            burst: Capacity of a token bucket; the number of the rate if left out.
            algorithm: Algorithm of the bucket: by default `token_bucket`, and `fixed_window` for
                windows of a calendar.
            cost: Units of this limit that one unit of a request's cost spends.
            timezone: Time zone whose days, weeks, months or years are the windows, by its IANA
                name, such as `Europe/Berlin`; UTC by default. Only for `/day`, `/week`, `/month`
                and `/year`.
            anchor: First day of the windows. Of a week a weekday (`monday`), of a month a day (1 to
                31; a shorter month has it on its last day), of a year month and day (`01-01`).

        Raises:
            ConfigError: The rate cannot be parsed, the values cannot work together, or the system
                has no time zone data.
        """
        known = None if algorithm is None else parse_algorithm(algorithm)
        quota = rate_quota(
            rate, burst=burst, algorithm=known, cost=cost, timezone=timezone, anchor=anchor
        )
        return cls(quota)

    @classmethod
    def concurrent(
        cls, limit: int, *, lease: float | Duration = DEFAULT_LEASE_SECONDS, cost: int = 1
    ) -> "Limit":
        """Return a limit of requests that are served at the same time.

        Args:
            limit: Most requests in flight, if each has a cost of 1.
            lease: Time after which a unit is free again if its replica died, in seconds or as a
                `timedelta`. A live replica renews the units that it holds.
            cost: Units of this limit that one unit of a request's cost holds.

        Raises:
            ConfigError: The values cannot work together.
        """
        return cls(concurrency_quota(limit, lease=lease, cost=cost))

    def __repr__(self) -> str:
        quota = self.quota
        cost = "" if quota.cost == 1 else f", cost={quota.cost}"
        if quota.algorithm is Algorithm.CONCURRENCY:
            return f"Limit.concurrent({quota.limit}, lease={quota.period_seconds:g}{cost})"
        if quota.calendar is not None:
            days = f"timezone={quota.calendar.timezone!r}"
            if quota.calendar.anchor is not None:
                days += f", anchor={quota.calendar.anchor!r}"
            return f"Limit.rate('{quota.limit}/{quota.calendar.unit}', {days}{cost})"
        burst = "" if quota.burst == quota.limit else f", burst={quota.burst}"
        algorithm = (
            ""
            if quota.algorithm is Algorithm.TOKEN_BUCKET
            else f", algorithm={quota.algorithm.value!r}"
        )
        return f"Limit.rate({_rate_text(quota)!r}{burst}{algorithm}{cost})"


def _rate_text(quota: Quota) -> str:
    for unit, seconds in UNIT_SECONDS.items():
        if quota.period_us == seconds * SECOND_US:
            return f"{quota.limit}/{unit}"
    # All digits: `parse_rate` reads no exponent.
    return f"{quota.limit} per {quota.period_seconds:.12g} s"


LimitSpec = str | Limit | Quota
"""A rate such as `100/minute`, a `Limit`, or a resolved quota."""


def resolve_limits(limits: LimitSpec | Sequence[LimitSpec]) -> tuple[Quota, ...]:
    """Return the quotas of one limit, or of several.

    Raises:
        ConfigError: A rate cannot be parsed; the message shows valid ones.
    """
    if isinstance(limits, str | Limit | Quota):
        limits = (limits,)
    if not isinstance(limits, Iterable):
        raise _no_limit(limits)
    return tuple([_resolve_limit(each) for each in limits])


def _resolve_limit(limit: LimitSpec) -> Quota:
    if isinstance(limit, str):
        return rate_quota(limit)
    if isinstance(limit, Limit):
        return limit.quota
    if not isinstance(limit, Quota):
        raise _no_limit(limit)
    return limit


def _no_limit(value: object) -> ConfigError:
    return ConfigError(
        f'{value!r} is no limit: write "5/minute", or Limit.rate("5/minute", burst=10)'
    )


def strictest_quotas(quota_sets: Iterable[tuple[Quota, ...]]) -> tuple[Quota, ...]:
    """Return the quotas of all tiers; of those that share a bucket, the one that admits least."""
    by_name: dict[str, Quota] = {}
    for quota in (each for quotas in quota_sets for each in quotas):
        kept = by_name.setdefault(quota.name, quota)
        if (quota.limit / quota.cost, quota.burst) < (kept.limit / kept.cost, kept.burst):
            by_name[quota.name] = quota
    return tuple(by_name.values())


def limits_text(quotas: Iterable[Quota]) -> str:
    """Return the code of a tuple of limits."""
    return tuple_text([repr(Limit(quota)) for quota in quotas])


def tuple_text(items: Sequence[str]) -> str:
    """Return the code of a tuple, from the code of its items."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
