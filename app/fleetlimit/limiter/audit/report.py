"""What one replica says that it let in: the text in which it is kept in the store, and back."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fleetlimit.core.keys import caller_of, limit_of, policy_of
from fleetlimit.core.quota import Algorithm, Quota

PENDING = -1
"""Stands for the time of a break that is not over yet."""
UNKNOWN = -1
"""Stands for what was spent before, where nothing was asked of the bucket."""
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class AuditedLimit:
    """A limit that is audited: one of a policy, by its figures, and not by what it is for."""

    policy: str
    quota: Quota

    @classmethod
    def of(cls, policy: str, quota: Quota) -> "AuditedLimit":
        """Return the limit behind a quota, whatever a request costs under it."""
        return cls(policy, quota if quota.cost == 1 else replace(quota, cost=1))

    def __str__(self) -> str:
        quota = self.quota
        figures = (quota.algorithm.value, quota.limit, quota.period_us, quota.burst)
        return " ".join(map(str, (self.policy, *figures)))

    @classmethod
    def parse(cls, text: str) -> "AuditedLimit":
        """Read what `str` wrote.

        Raises:
            ValueError: It did not write that.
        """
        policy, algorithm, *figures = text.split(" ")
        limit, period_us, burst = map(int, figures)
        return cls(policy, Quota(Algorithm(algorithm), limit, period_us, burst))


class IntervalUsage(NamedTuple):
    """What a replica let in of one bucket in one slot.

    Args:
        offset_us: When it first did, in microseconds from the slot's begin on the store's clock.
        spent_before: Units spent before that, by the store; `UNKNOWN` if it did not say.
        units: Units let in, less those given back.
    """

    offset_us: int
    spent_before: int
    units: int


class CallerAccount(NamedTuple):
    """What a replica let in of one bucket.

    Args:
        first_interval: The slot from which on nothing is missing.
        has_refunds: Whether it gave units back, ever.
        intervals: Units by interval, for the most recent non-empty intervals. Kept as raw JSON and
            parsed lazily, because few accounts are read.
    """

    first_interval: int
    has_refunds: bool
    intervals: Mapping[str, Any]

    def usage(self, interval: int) -> IntervalUsage | None:
        """Return what was let in within a slot, None for nothing."""
        try:
            after_us, before, units = self.intervals[str(interval)]
            return IntervalUsage(int(after_us), int(before), int(units))
        except _MALFORMED:
            return None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What one replica says.

    Args:
        accounts: Accounts by limit and caller.
        invalidations: By policy, name of the limit and caller, until when nothing counts, on the
            store's clock; `PENDING` while that is not known.
    """

    accounts: Mapping[AuditedLimit, Mapping[str, CallerAccount]]
    invalidations: Mapping[tuple[str, str, str], int]

    @classmethod
    def parse(cls, text: str) -> "UsageReport":
        """Read a statement; one that another release wrote in another way says nothing."""
        try:
            found = json.loads(text)
            return cls(
                dict(_parse_accounts(found["accounts"])),
                dict(_parse_invalidations(found["breaks"])),
            )
        except _MALFORMED:
            return cls({}, {})


def dump_report(accounts: Mapping[str, Mapping[str, Any]], invalidations: Mapping[str, int]) -> str:
    """Return the text of a statement.

    Args:
        accounts: By limit and caller: first slot, 1 if units were given back, and the figures of
            `Spent` by slot.
        invalidations: Times as in `Statement`, by the bucket's key.
    """
    return json.dumps({"accounts": accounts, "breaks": invalidations}, separators=(",", ":"))


def dump_bounds(bounds: Mapping[str, int]) -> str:
    """Return the text that tells all replicas the largest hash that is audited, by limit."""
    return json.dumps(bounds, separators=(",", ":"))


def parse_bounds(text: str) -> dict[str, int] | None:
    """Return what `write_bounds` wrote; None where that is not it."""
    try:
        return {str(limit): int(bound) for limit, bound in json.loads(text).items()}
    except _MALFORMED:
        return None


def _parse_accounts(found: Any) -> Iterator[tuple[AuditedLimit, dict[str, CallerAccount]]]:
    for text, callers in found.items():
        yield (
            AuditedLimit.parse(text),
            {
                caller: CallerAccount(int(first), bool(gives_back), {**slots})
                for caller, (first, gives_back, slots) in callers.items()
            },
        )


def _parse_invalidations(found: Any) -> Iterator[tuple[tuple[str, str, str], int]]:
    for bucket, at_us in found.items():
        yield (policy_of(bucket), limit_of(bucket), caller_of(bucket)), int(at_us)
