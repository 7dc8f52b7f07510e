"""Limits as a policy states them, and quotas: limits resolved to integers.

Both are validated when they are built, so that a quota that exists can be enforced exactly.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from operator import index
from typing import Literal, Protocol, TypeVar

from fleetlimit.errors import ConfigError, CostError

SECOND_US = 1_000_000
MILLISECOND_US = 1_000
MAX_SAFE_INTEGER = 2**53
"""Bound of the integers that a Lua number, a double, represents exactly."""
MAX_LIMIT = 2**26
"""Largest limit or burst: the product of two such numbers is exact in Lua's 53-bit integers."""
MAX_ENTRIES = 10_000
"""Largest limit of the algorithms that keep one entry per unit (`sliding_log`, `concurrency`)."""
MAX_HELD_UNITS = 100
"""Most units of a `concurrency` limit that one request holds. The store has an entry for each, and
10,000 take a script call 55 ms, in which no other request is decided."""
MAX_REFILL_US = 366 * 86_400 * SECOND_US
"""Longest refill time of a bucket, and so the longest TTL of a key: a leap year."""
DEFAULT_LEASE_SECONDS = 30

_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_ALIASES = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_RATE = re.compile(r"(\d{1,12})\s*(?:/|per)\s*(?:(\d{1,9})\s*)?([a-z]+)", re.ASCII)


Member = TypeVar("Member", bound=StrEnum)


def parse_enum(kind: type[Member], text: str) -> Member:
    """Return the member of an enum that has this value.

    Raises:
        ConfigError: There is none; the message lists the values.
    """
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not known: write one of {', '.join(kind)}") from None


class Algorithm(StrEnum):
    """Algorithm that a bucket is decided with."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - the name of an algorithm
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    SLIDING_LOG = "sliding_log"
    CONCURRENCY = "concurrency"


def check_cost(cost: object) -> int:
    """Return the cost of a request as an `int`, at most `MAX_SAFE_INTEGER`, which no limit holds.

    Python converts no number of thousands of digits to text, and the driver ends the process then.

    Args:
        cost: An integer, of another type too, such as numpy's; a float is none, 2.0 included.

    Raises:
        CostError: The cost is negative, or no whole number.
    """
    try:
        # A `bool` stays one in `index`, and the store's driver sends none.
        whole = int(index(cost))  # type: ignore[arg-type]  # the error is reported below
    except TypeError:
        raise CostError(f"a cost is a whole number, not {cost!r}") from None
    whole = max(-MAX_SAFE_INTEGER, min(whole, MAX_SAFE_INTEGER))
    if whole < 0:
        raise CostError(f"a cost cannot be negative: {whole}")
    return whole


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit, resolved to integers.

    `period_us` is the exact internal value; `period_seconds` is for users.

    Args:
        algorithm: Algorithm of the bucket.
        limit: Units per period; for `concurrency`, units held at the same time. 1 to `MAX_LIMIT`.
        period_us: Period in microseconds, a multiple of a millisecond; for `concurrency`, the
            time from the last renewal of a lease to its expiry.
        burst: Most units that can be spent at one instant; differs from `limit` for token buckets
            only.
        cost: Units of this quota that one unit of a request's cost spends.
        name: Short name, unique within a policy, for clients and for the bucket's key in the store;
            by default made from the algorithm and the period.

    Raises:
        ConfigError: The values cannot work together; the message says what to write.
    """

    algorithm: Algorithm
    limit: int
    period_us: int
    burst: int
    cost: int = 1
    name: str = field(default="", repr=False)
    _hash: int = field(init=False, repr=False, compare=False)
    """The hash of the other fields: quotas are keys of caches that are read in every request."""

    def __post_init__(self) -> None:
        for name in ("limit", "period_us", "burst", "cost"):
            figure = getattr(self, name)
            try:
                object.__setattr__(self, name, int(index(figure)))
            except TypeError:
                raise ConfigError(
                    f"{name} is a whole number, not {figure!r}: write an integer"
                ) from None
        if not 1 <= self.limit <= MAX_LIMIT:
            raise ConfigError(f"a limit must be from 1 to {MAX_LIMIT:,}, not {self.limit:,}")
        if self.period_us < MILLISECOND_US or self.period_us % MILLISECOND_US:
            raise ConfigError(
                f"a period or lease must be whole milliseconds, at least one, and not "
                f"{self.period_seconds:g} s"
            )
        if not 1 <= self.burst <= MAX_LIMIT:
            raise ConfigError(f"a burst must be from 1 to {MAX_LIMIT:,}, not {self.burst:,}")
        if self.cost < 1:
            raise ConfigError(f"a limit's cost must be at least 1, not {self.cost}")
        if self.burst < self.cost:
            raise ConfigError(
                f"burst {self.burst} is below cost {self.cost}, so no request could ever pass: "
                f"write a burst of at least {self.cost}"
            )
        if self.algorithm is not Algorithm.TOKEN_BUCKET and self.burst != self.limit:
            raise ConfigError(
                f"burst belongs to token_bucket only: leave it out for {self.algorithm}"
            )
        self._check_size()
        object.__setattr__(self, "name", self.name or self._default_name())
        figures = (self.algorithm, self.limit, self.period_us, self.burst, self.cost)
        object.__setattr__(self, "_hash", hash(figures))

    def __hash__(self) -> int:
        return self._hash

    def _check_size(self) -> None:
        if self.algorithm is Algorithm.CONCURRENCY and self.cost > MAX_HELD_UNITS:
            raise ConfigError(
                f"a request holds at most {MAX_HELD_UNITS} units of a concurrency limit: write a "
                f"smaller cost than {self.cost}, and a smaller limit to match"
            )
        if self.algorithm in {Algorithm.SLIDING_LOG, Algorithm.CONCURRENCY}:
            if self.limit > MAX_ENTRIES:
                raise ConfigError(
                    f"{self.algorithm} keeps one entry per unit, so its limit is at most "
                    f"{MAX_ENTRIES:,}: write sliding_window for {self.limit:,}"
                )
        elif (
            self.algorithm is Algorithm.SLIDING_WINDOW
            and self.limit * (self.period_us // MILLISECOND_US) >= MAX_SAFE_INTEGER
        ):
            raise ConfigError("limit times period is too large for sliding_window to be exact")
        if self.refill_us > MAX_REFILL_US:
            raise ConfigError(
                "the limit would take more than 366 days to fill: write a smaller burst or period"
            )

    @property
    def period_seconds(self) -> float:
        """The period, or for `concurrency` the lifetime of a lease, in seconds."""
        return self.period_us / SECOND_US

    @property
    def refill_us(self) -> int:
        """Microseconds, rounded up, in which an empty bucket becomes full."""
        if self.algorithm is Algorithm.TOKEN_BUCKET:
            return -(-self.burst * self.period_us // self.limit)
        return self.period_us

    def _default_name(self) -> str:
        code = "".join(word[0] for word in self.algorithm.split("_"))
        seconds, rest = divmod(self.period_us, SECOND_US)
        return f"{code}{seconds}" if not rest else f"{code}{self.period_us // MILLISECOND_US}ms"

    def units_for(self, cost: int) -> int:
        """Return the units that a request of this cost spends.

        Args:
            cost: A cost that `check_cost` accepts.

        Raises:
            CostError: The cost is more than a full bucket holds, or than one request may hold.
        """
        units = cost * self.cost
        if units > self.burst:
            raise CostError(
                f"a cost of {cost} can never pass a limit that holds {self.burst // self.cost}"
            )
        if units > MAX_HELD_UNITS and self.algorithm is Algorithm.CONCURRENCY:
            raise CostError(
                f"a cost of {cost} is above {MAX_HELD_UNITS // self.cost}, the most that one "
                "request may hold of a concurrency limit"
            )
        return units

    def per_replica(self, replicas: int) -> "Quota":
        """Return one replica's share of this quota, for use while the store is unavailable.

        The shares of `replicas` replicas add up to the limit, or to one unit of cost per replica
        if the limit is smaller than that. A share has the name of its quota, so that clients see
        the same limit during an outage.
        """
        if replicas <= 1:
            return self
        burst = max(self.cost, self.burst // replicas)
        if self.algorithm is Algorithm.TOKEN_BUCKET:
            # The rate is divided by stretching the period, which stays exact. A bucket holds at
            # least one request, and takes at most MAX_REFILL_US to fill.
            period_us = min(self.period_us * replicas, MAX_REFILL_US * self.limit // burst)
            period_us -= period_us % MILLISECOND_US
            return Quota(self.algorithm, self.limit, period_us, burst, self.cost, self.name)
        return Quota(self.algorithm, burst, self.period_us, burst, self.cost, self.name)


def parse_rate(text: str) -> tuple[int, int]:
    """Parse `100/minute` or `100 per 90 s` to (limit, period in microseconds).

    Raises:
        ConfigError: The text is not a rate; the message shows valid ones.
    """
    found = _RATE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    unit = found and found[3].removesuffix("s")
    if not found or not (unit := _ALIASES.get(found[3], unit or "")) or unit not in _UNITS:
        raise ConfigError(
            f"{text!r} is not a rate: write 100/second, 100/minute, 100/hour, 100/day "
            "or 100 per 90 s"
        )
    limit, count = int(found[1]), int(found[2] or 1)
    if limit == 0 or count == 0:
        raise ConfigError(f"{text!r} allows nothing: write numbers from 1")
    return limit, count * _UNITS[unit] * SECOND_US


def rate_quota(
    rate: str,
    *,
    burst: int | None = None,
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET,
    cost: int = 1,
) -> Quota:
    """Resolve a rate such as `100/minute`; arguments and errors are those of `Limit.rate`."""
    if algorithm is Algorithm.CONCURRENCY:
        raise ConfigError("concurrency has no rate: write `concurrency: 10` in place of `rate`")
    limit, period_us = parse_rate(rate)
    return Quota(algorithm, limit, period_us, limit if burst is None else burst, cost)


class Duration(Protocol):
    """A `datetime.timedelta`. The core does not import `datetime`, which has a clock."""

    def total_seconds(self) -> float:
        """Return the duration in seconds."""
        ...


def duration_us(duration: float | Duration) -> int:
    """Return a number of seconds, or a `timedelta`, as rounded microseconds.

    Raises:
        ConfigError: It is neither, or not finite.
    """
    try:
        seconds = duration if isinstance(duration, int | float) else duration.total_seconds()
        return round(seconds * SECOND_US)
    except (AttributeError, OverflowError, ValueError):
        raise ConfigError(
            f"{duration!r} is not a duration: write a number of seconds, or a timedelta"
        ) from None


def concurrency_quota(
    limit: int, *, lease: float | Duration = DEFAULT_LEASE_SECONDS, cost: int = 1
) -> Quota:
    """Resolve a number of concurrent requests; arguments and errors are those of `Limit`."""
    return Quota(Algorithm.CONCURRENCY, limit, duration_us(lease), limit, cost)


RateAlgorithm = Literal["token_bucket", "fixed_window", "sliding_window", "sliding_log"]
"""Algorithms of a rate."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Limit of a policy. Build it with `Limit.rate` or `Limit.concurrent`.

    Args:
        quota: The limit, resolved to integers.
    """

    quota: Quota

    @classmethod
    def rate(
        cls,
        rate: str,
        *,
        burst: int | None = None,
        algorithm: RateAlgorithm = "token_bucket",
        cost: int = 1,
    ) -> "Limit":
        """Return a limit of requests per time.

        Args:
            rate: The rate, such as `100/minute` or `100 per 90 s`.
            burst: Capacity of a token bucket; the number of the rate if left out.
            algorithm: Algorithm of the bucket.
            cost: Units of this limit that one unit of a request's cost spends.

        Raises:
            ConfigError: The rate cannot be parsed, or the values cannot work together.
        """
        known = parse_enum(Algorithm, algorithm)
        return cls(rate_quota(rate, burst=burst, algorithm=known, cost=cost))

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
        burst = "" if quota.burst == quota.limit else f", burst={quota.burst}"
        algorithm = (
            ""
            if quota.algorithm is Algorithm.TOKEN_BUCKET
            else f", algorithm={quota.algorithm.value!r}"
        )
        return f"Limit.rate({_rate_text(quota)!r}{burst}{algorithm}{cost})"


def _rate_text(quota: Quota) -> str:
    for unit, seconds in _UNITS.items():
        if quota.period_us == seconds * SECOND_US:
            return f"{quota.limit}/{unit}"
    return f"{quota.limit} per {quota.period_seconds:g} s"
