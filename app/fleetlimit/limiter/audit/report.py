"""Usage reports: what one replica admitted, as the JSON text that the store keeps."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from fleetlimit.core.calendars import Calendar
from fleetlimit.core.keys import BucketKey, parse_bucket_key
from fleetlimit.core.quota import Algorithm, Quota

PENDING: Final = -1
"""Sentinel: the store time of an invalidation is not known yet."""
UNKNOWN: Final = -1
"""Sentinel: the units spent before this interval are unknown, because the bucket was only refunded
in it."""
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class AuditedLimit:
    """Identity of an audited limit: policy name and quota figures, ignoring the cost factor."""

    policy: str
    quota: Quota

    @classmethod
    def of(cls, policy: str, quota: Quota) -> "AuditedLimit":
        """Return the identity of a policy's quota."""
        return cls(policy, quota if quota.cost == 1 else replace(quota, cost=1))

    def __str__(self) -> str:
        quota = self.quota
        figures = (quota.algorithm.value, quota.limit, quota.period_us, quota.burst)
        calendar = () if quota.calendar is None else (quota.calendar,)
        return " ".join(map(str, (self.policy, *figures, *calendar)))

    @classmethod
    def parse(cls, text: str) -> "AuditedLimit":
        """Parse the text of `str`.

        Raises:
            ValueError: The text is malformed.
        """
        policy, algorithm, limit, period_us, burst, *calendar = text.split(" ")
        figures = int(limit), int(period_us), int(burst)
        of_quota = Calendar.parse(*calendar) if calendar else None
        return cls(policy, Quota(Algorithm(algorithm), *figures, calendar=of_quota))


@dataclass(slots=True)
class IntervalUsage:
    """Units that a replica admitted from one bucket in one interval.

    Not `frozen`, because the sample updates it with every admission.

    Args:
        offset_us: Time of the first admission, in microseconds since the start of the interval.
        spent_before: Units that were spent in the bucket before it, or `UNKNOWN`.
        units: Admitted units, less the refunded ones.
    """

    offset_us: int
    spent_before: int
    units: int

    def precedes(self, other: "IntervalUsage") -> bool:
        """Return whether the first admission came before that of another usage of the bucket."""
        if self.offset_us == other.offset_us:
            return self.spent_before < other.spent_before
        return self.offset_us < other.offset_us


@dataclass(frozen=True, slots=True)
class CallerAccount:
    """Usage of one bucket by one replica.

    Args:
        first_interval: Interval from which on the account is complete.
        has_refunds: Whether the replica ever refunded units of the bucket.
        intervals: Units by interval, for the most recent non-empty intervals. Kept as raw JSON and
            parsed lazily, because few accounts are read.
    """

    first_interval: int
    has_refunds: bool
    intervals: Mapping[str, Any]

    def usage(self, interval: int) -> IntervalUsage | None:
        """Return the usage in an interval; None if there was none."""
        try:
            offset_us, spent_before, units = self.intervals[str(interval)]
            return IntervalUsage(int(offset_us), int(spent_before), int(units))
        except _MALFORMED:
            return None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Report of one replica.

    Args:
        accounts: Accounts by limit and caller.
        invalidations: Store time until which all usage of a bucket is ignored; `PENDING` while it
            is not known.
    """

    accounts: Mapping[AuditedLimit, Mapping[str, CallerAccount]]
    invalidations: Mapping[BucketKey, int]

    @classmethod
    def parse(cls, text: str) -> "UsageReport":
        """Parse a report; a malformed one, perhaps of another release, is empty."""
        try:
            report = json.loads(text)
            accounts = dict(_parse_accounts(report["accounts"]))
            return cls(accounts, dict(_parse_invalidations(report["invalidations"])))
        except _MALFORMED:
            return cls({}, {})


def dump_account(
    first_interval: int, usages: Mapping[int, IntervalUsage], *, has_refunds: bool
) -> Any:
    """Return an account as `dump_report` takes it; the arguments are those of `CallerAccount`."""
    intervals = {
        interval: (usage.offset_us, usage.spent_before, usage.units)
        for interval, usage in usages.items()
    }
    return first_interval, int(has_refunds), intervals


def dump_report(accounts: Mapping[str, Mapping[str, Any]], invalidations: Mapping[str, int]) -> str:
    """Return the text of a report.

    Args:
        accounts: Results of `dump_account`, by limit and caller.
        invalidations: Times as in `UsageReport`, by key of the bucket.
    """
    return json.dumps({"accounts": accounts, "invalidations": invalidations}, separators=(",", ":"))


def dump_bounds(bounds: Mapping[str, int]) -> str:
    """Return the text of a message to all replicas: the largest audited rank of each limit."""
    return json.dumps(bounds, separators=(",", ":"))


def parse_bounds(text: str) -> dict[str, int] | None:
    """Parse the text of `dump_bounds`; None if it is malformed."""
    try:
        return {str(limit): int(bound) for limit, bound in json.loads(text).items()}
    except _MALFORMED:
        return None


def _parse_accounts(raw: Any) -> Iterator[tuple[AuditedLimit, dict[str, CallerAccount]]]:
    for text, callers in raw.items():
        yield (
            AuditedLimit.parse(text),
            {
                caller: CallerAccount(int(first), bool(has_refunds), {**intervals})
                for caller, (first, has_refunds, intervals) in callers.items()
            },
        )


def _parse_invalidations(raw: Any) -> Iterator[tuple[BucketKey, int]]:
    for key, until_us in raw.items():
        yield parse_bucket_key(key), int(until_us)
