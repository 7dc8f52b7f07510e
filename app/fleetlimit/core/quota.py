"""A limit resolved to integers, checked so that impossible values cannot be built."""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from fleetlimit.errors import ConfigError, CostError

SECOND_US = 1_000_000
MILLISECOND_US = 1_000
MAX_SAFE_INTEGER = 2**53
"""From here on a Lua number, a double, no longer holds every integer."""
MAX_LIMIT = 2**26
"""Largest limit or burst: products of two such numbers stay exact in Lua's 53-bit integers."""
MAX_ENTRIES = 10_000
"""Largest limit of the algorithms whose state holds one entry per unit (log, concurrency)."""
MAX_REFILL_US = 366 * 86_400 * SECOND_US
"""Longest time a bucket may take to fill, and so the longest life of a key: a year."""
DEFAULT_LEASE_US = 30 * SECOND_US

_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_ALIASES = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_RATE = re.compile(r"(\d{1,12})\s*(?:/|per)\s*(?:(\d{1,9})\s*)?([a-z]+)", re.ASCII)


class Algorithm(StrEnum):
    """How a limit counts."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - the name of an algorithm
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    SLIDING_LOG = "sliding_log"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit, in integers.

    Args:
        algorithm: How the limit counts.
        limit: Units per period; for `concurrency`, units held at the same time. 1 to `MAX_LIMIT`.
        period_us: Length of the period in microseconds, whole milliseconds only; for
            `concurrency`, how long a lease outlives an owner that stopped renewing it.
        burst: Most units that can be spent at one instant. Only a token bucket may differ from
            `limit` here.
        cost: Units of this limit that one unit of a request's cost spends.

    Raises:
        ConfigError: The values cannot work together; the message says what to write.
    """

    algorithm: Algorithm
    limit: int
    period_us: int
    burst: int
    cost: int = 1
    name: str = field(init=False, repr=False, compare=False)
    """Short name of the limit, unique within a policy and part of its key in the store."""
    _hash: int = field(init=False, repr=False, compare=False)
    """Its hash, so that what was prepared for a quota is found again at once."""

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_LIMIT:
            raise ConfigError(f"a limit must be from 1 to {MAX_LIMIT:,}, not {self.limit:,}")
        if self.period_us < MILLISECOND_US or self.period_us % MILLISECOND_US:
            raise ConfigError(f"a period must be whole milliseconds, not {self.period_us} us")
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
        object.__setattr__(self, "name", self._name())
        figures = (self.algorithm, self.limit, self.period_us, self.burst, self.cost)
        object.__setattr__(self, "_hash", hash(figures))

    def __hash__(self) -> int:
        return self._hash

    def _check_size(self) -> None:
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
    def refill_us(self) -> int:
        """Microseconds, rounded up, that an empty allowance takes to be whole again."""
        if self.algorithm is Algorithm.TOKEN_BUCKET:
            return -(-self.burst * self.period_us // self.limit)
        return self.period_us

    def _name(self) -> str:
        code = "".join(word[0] for word in self.algorithm.split("_"))
        seconds, rest = divmod(self.period_us, SECOND_US)
        return f"{code}{seconds}" if not rest else f"{code}{self.period_us // MILLISECOND_US}ms"

    def units_for(self, cost: int) -> int:
        """Return the units that a request of this cost spends.

        Raises:
            CostError: The cost is negative, or above what the limit can ever hold.
        """
        if cost < 0:
            raise CostError(f"a cost cannot be negative: {cost}")
        units = cost * self.cost
        if units > self.burst:
            raise CostError(
                f"a cost of {cost} can never pass a limit that holds {self.burst // self.cost}"
            )
        return units

    def per_replica(self, replicas: int) -> "Quota":
        """Return this replica's part of the limit while the shared store is away.

        The parts of `replicas` replicas add up to the limit, or to one unit of cost a replica
        where the limit is smaller than that.
        """
        if replicas <= 1:
            return self
        burst = max(self.cost, self.burst // replicas)
        if self.algorithm is Algorithm.TOKEN_BUCKET:
            # The rate is divided by stretching the period, which stays exact. A bucket holds at
            # least one request, and takes at most MAX_FILL_US to fill.
            period_us = min(self.period_us * replicas, MAX_REFILL_US * self.limit // burst)
            period_us -= period_us % MILLISECOND_US
            return Quota(self.algorithm, self.limit, period_us, burst, self.cost)
        return Quota(self.algorithm, burst, self.period_us, burst, self.cost)


def parse_rate(text: str) -> tuple[int, int]:
    """Read `100/minute` or `100 per 90 s` as (limit, period in microseconds).

    Raises:
        ConfigError: The text is no rate; the message shows one that is.
    """
    found = _RATE.fullmatch(text.strip().lower())
    unit = found and found[3].removesuffix("s")
    if not found or not (unit := _ALIASES.get(found[3], unit or "")) or unit not in _UNITS:
        raise ConfigError(
            f"{text!r} is not a rate: write 100/second, 100/minute, 100/hour, 100/day "
            "or 100 per 90 s"
        )
    limit, count = int(found[1]), int(found[2] or 1)
    if limit == 0 or count == 0:
        raise ConfigError(f"{text!r} allows nothing: a rate needs at least 1 per 1 second")
    return limit, count * _UNITS[unit] * SECOND_US


def rate_quota(
    text: str,
    *,
    burst: int | None = None,
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET,
    cost: int = 1,
) -> Quota:
    """Build the quota that a rate such as `100/minute` means.

    Args:
        text: The rate.
        burst: Capacity of a token bucket; the rate's own number when left out.
        algorithm: How the limit counts.
        cost: Units that one unit of a request's cost spends.

    Raises:
        ConfigError: The rate cannot be read, or the values cannot work together.
    """
    if algorithm is Algorithm.CONCURRENCY:
        raise ConfigError("concurrency has no rate: write `concurrency: 10` in place of `rate`")
    limit, period_us = parse_rate(text)
    return Quota(algorithm, limit, period_us, limit if burst is None else burst, cost)


def concurrency_quota(limit: int, *, lease_us: int = DEFAULT_LEASE_US, cost: int = 1) -> Quota:
    """Build the quota for `limit` requests in flight at once.

    Raises:
        ConfigError: The values cannot work together.
    """
    return Quota(Algorithm.CONCURRENCY, limit, lease_us, limit, cost)
