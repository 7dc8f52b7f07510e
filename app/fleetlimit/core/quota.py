"""Quotas: limits resolved to integers, from rates such as `100/minute`.

A quota is validated when it is built, so that one that exists can be enforced exactly.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from operator import index
from typing import Final, Protocol, TypeVar

from fleetlimit.core.calendars import LONGEST_DAYS, Anchor, Calendar
from fleetlimit.errors import ConfigError, CostError

SECOND_US = 1_000_000
MILLISECOND_US = 1_000
MAX_SAFE_INTEGER = 2**53
"""Bound of the integers that a Lua number, a double, represents exactly."""
MAX_LIMIT = 2**45
"""Largest limit or burst: 35 trillion. The exact division of the scripts needs eight more bits, and
a number of a structured field (RFC 9651) has at most 15 digits."""
MAX_ENTRIES = 10_000
"""Largest limit of the algorithms that keep one entry per unit (`sliding_log`, `concurrency`)."""
MAX_HELD_UNITS = 100
"""Most units of a `concurrency` limit that one request holds. The store has an entry for each, and
10,000 take a script call 55 ms, in which no other request is decided."""
MAX_REFILL_US = 366 * 86_400 * SECOND_US
"""Longest refill time of a bucket, and so the longest TTL of a key: a leap year."""
MAX_PERIOD_US = MAX_SAFE_INTEGER // MILLISECOND_US * MILLISECOND_US
"""Longest period: 285 years."""
DEFAULT_LEASE_SECONDS = 30

UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
"""Seconds of the units that are no windows of a calendar by themselves."""
_CALENDAR_DAYS = {"week": 7, "month": 30, "year": 365}
"""Units that only a calendar has, and days to suggest for them."""
_ALIASES = {
    "s": "second",
    "sec": "second",
    "m": "minute",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mo": "month",
    "y": "year",
}
_SEVERAL_RATES: Final = re.compile(r"[;,|]")
_SEVERAL: Final = 2
_RATE = re.compile(r"(\d{1,15})\s*(?:/|per)\s*(?:(\d{1,9})\s*)?([a-z]+)", re.ASCII)


Member = TypeVar("Member", bound=StrEnum)


def parse_enum(kind: type[Member], text: str, hint: str = "") -> Member:
    """Return the member of an enum that has this value.

    Args:
        kind: The enum.
        text: The value.
        hint: End of the message if there is none.

    Raises:
        ConfigError: There is none; the message lists the values.
    """
    try:
        return kind(text)
    except ValueError:
        message = f"{text!r} is not known: write one of {', '.join(kind)}{hint}"
        raise ConfigError(message) from None


class Algorithm(StrEnum):
    """Algorithm that a bucket is decided with."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - the name of an algorithm
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    SLIDING_LOG = "sliding_log"
    CONCURRENCY = "concurrency"


_OTHER_NAMES: Final = {
    "gcra": Algorithm.TOKEN_BUCKET,
    "leaky_bucket": Algorithm.TOKEN_BUCKET,
    "leaking_bucket": Algorithm.TOKEN_BUCKET,
    "moving_window": Algorithm.SLIDING_LOG,
    "sliding_window_log": Algorithm.SLIDING_LOG,
    "sliding_window_counter": Algorithm.SLIDING_WINDOW,
    "fixed_window_counter": Algorithm.FIXED_WINDOW,
    "fixed": Algorithm.FIXED_WINDOW,
    "sliding": Algorithm.SLIDING_WINDOW,
}
"""What other rate limiters call an algorithm that decides as ours does."""


def algorithm_hint(text: object) -> str:
    """Return `; did you mean ...?` for another limiter's name of an algorithm; else nothing."""
    name = re.sub(r"[- ]", "_", str(text).strip().lower())
    meant = _OTHER_NAMES.get(name) or next((each for each in Algorithm if each == name), None)
    return f"; did you mean {meant}?" if meant is not None else ""


def parse_algorithm(text: str) -> Algorithm:
    """Return the algorithm of this name; errors are those of `parse_enum`, with a hint."""
    return parse_enum(Algorithm, text, algorithm_hint(text))


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
            by default made from the algorithm and the period, or the unit of the calendar.
        calendar: Windows of a `fixed_window` by the calendar; None for windows of `period_us` since
            the epoch. The period is then the length of the longest window.

    Raises:
        ConfigError: The values cannot work together; the message says what to write.
    """

    algorithm: Algorithm
    limit: int
    period_us: int
    burst: int
    cost: int = 1
    name: str = field(default="", repr=False)
    calendar: Calendar | None = None
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
                f"{self.period_seconds:.12g} s"
            )
        if self.period_us > MAX_PERIOD_US:
            raise ConfigError("a period is at most 285 years: write a smaller limit and period")
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
        self._check_calendar()
        object.__setattr__(self, "name", self.name or self._default_name())
        figures = (self.algorithm, self.limit, self.period_us, self.burst, self.cost, self.calendar)
        object.__setattr__(self, "_hash", hash(figures))

    def __hash__(self) -> int:
        return self._hash

    def _check_size(self) -> None:
        if self.algorithm is Algorithm.CONCURRENCY and self.cost > MAX_HELD_UNITS:
            raise ConfigError(
                f"a request holds at most {MAX_HELD_UNITS} units of a concurrency limit: write a "
                f"smaller cost than {self.cost}, and a smaller limit to match"
            )
        is_kept_by_unit = self.algorithm in {Algorithm.SLIDING_LOG, Algorithm.CONCURRENCY}
        if is_kept_by_unit and self.limit > MAX_ENTRIES:
            instead = (
                f"sliding_window for {self.limit:,}"
                if self.algorithm is Algorithm.SLIDING_LOG
                else f"at most {MAX_ENTRIES:,}, or a rate"
            )
            raise ConfigError(
                f"{self.algorithm} keeps one entry per unit, so its limit is at most "
                f"{MAX_ENTRIES:,}: write {instead}"
            )
        if self.refill_us > MAX_REFILL_US:
            raise ConfigError(
                "the limit would take more than 366 days to fill: write a smaller burst or period"
            )

    def _check_calendar(self) -> None:
        calendar = self.calendar
        if calendar is None:
            return
        if self.algorithm is not Algorithm.FIXED_WINDOW or self.period_us != calendar.longest_us:
            raise ConfigError(
                "a calendar belongs to fixed_window, with the period of its longest window: write "
                f"Limit.rate('{self.limit}/{calendar.unit}', timezone={calendar.timezone!r})"
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
        if self.calendar is not None:
            return self.calendar.unit
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
            longest_us = min(self.period_us * replicas, MAX_REFILL_US * self.limit // burst)
            period_us = min(longest_us, MAX_PERIOD_US)
            # Of a period that would be too long, the limit is divided instead, rounded down.
            limit = max(1, self.limit * period_us // longest_us)
            period_us -= period_us % MILLISECOND_US
            return Quota(self.algorithm, limit, period_us, burst, self.cost, self.name)
        return Quota(
            self.algorithm, burst, self.period_us, burst, self.cost, self.name, self.calendar
        )


def _require_one_rate(text: object) -> None:
    """Reject several rates in one place, as other limiters write them: `5/minute;100/day`."""
    rates = _SEVERAL_RATES.split(text) if isinstance(text, str) else text
    if not isinstance(rates, list | tuple) or len(rates) < _SEVERAL:
        return
    if all(isinstance(each, str) and _RATE.fullmatch(each.strip().lower()) for each in rates):
        first, second = (each.strip() for each in rates[:_SEVERAL])
        raise ConfigError(
            f"{text!r} has several rates: write a limit for each, such as "
            f"Depends(RateLimit({first!r})), Depends(RateLimit({second!r})), or a list of them "
            "in a policy or as the result of a function"
        )


def _split_rate(text: str) -> tuple[int, int, str]:
    """Return the limit of a rate, the number of its time units, and the unit."""
    found = _RATE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    word = found[3] if found else ""
    unit = _ALIASES.get(word, word.removesuffix("s"))
    if not found or unit not in UNIT_SECONDS | _CALENDAR_DAYS:
        _require_one_rate(text)
        raise ConfigError(
            f"{text!r} is not a rate: write 100/second, 100/minute, 100/hour, 100/day, 100/week, "
            "100/month, 100/year or 100 per 90 s"
        )
    limit, count = int(found[1]), int(found[2] or 1)
    if limit == 0 or count == 0:
        raise ConfigError(f"{text!r} allows nothing: write numbers from 1")
    if count != 1 and unit in _CALENDAR_DAYS:
        raise ConfigError(
            f"{text!r} is no window of a calendar: write {limit}/{unit}, or {limit} per "
            f"{count * _CALENDAR_DAYS[unit]} days"
        )
    return limit, count, unit


def parse_rate(text: str) -> tuple[int, int]:
    """Parse `100/minute` or `100 per 90 s` to (limit, period in microseconds).

    The period of a week, month or year is that of the longest one.

    Raises:
        ConfigError: The text is not a rate; the message shows valid ones.
    """
    limit, count, unit = _split_rate(text)
    seconds = (
        UNIT_SECONDS[unit] if unit in UNIT_SECONDS else LONGEST_DAYS[unit] * UNIT_SECONDS["day"]
    )
    return limit, count * seconds * SECOND_US


def rate_quota(
    rate: str,
    *,
    burst: int | None = None,
    algorithm: Algorithm | None = None,
    cost: int = 1,
    timezone: str | None = None,
    anchor: Anchor | None = None,
) -> Quota:
    """Resolve a rate such as `100/minute`; arguments and errors are those of `Limit.rate`."""
    if algorithm is Algorithm.CONCURRENCY:
        raise ConfigError("concurrency has no rate: write `concurrency: 10` in place of `rate`")
    limit, count, unit = _split_rate(rate)
    capacity = limit if burst is None else burst
    if unit in UNIT_SECONDS and timezone is None and anchor is None:
        period_us = count * UNIT_SECONDS[unit] * SECOND_US
        return Quota(algorithm or Algorithm.TOKEN_BUCKET, limit, period_us, capacity, cost)
    if unit not in LONGEST_DAYS or count != 1:
        raise ConfigError(
            f"timezone and anchor belong to windows of a calendar: write {limit}/day, "
            f"{limit}/week, {limit}/month or {limit}/year, and not {rate!r}"
        )
    if algorithm not in {None, Algorithm.FIXED_WINDOW}:
        days = _CALENDAR_DAYS.get(unit, 1)
        raise ConfigError(
            f"{rate!r} is a window of a calendar, and {algorithm} has none: write fixed_window, or "
            f"{limit} per {days * 24} hours without timezone and anchor"
        )
    if unit == "day" and anchor is not None:
        raise ConfigError("a day has no anchor: leave anchor out, or write a week, month or year")
    # An empty text is no time zone.
    calendar = Calendar(unit, "UTC" if timezone is None else timezone, anchor)
    period_us = calendar.longest_us
    return Quota(Algorithm.FIXED_WINDOW, limit, period_us, capacity, cost, calendar=calendar)


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
