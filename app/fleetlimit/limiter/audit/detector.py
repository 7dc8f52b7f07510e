"""Overshoot detector: compares the usage of all replicas with the limits, on one replica.

An interval is compared once every replica had time to report it. If a refund may be missing, the
bucket's ledger is reopened. Admissions that a replica did not report before it died are also
missing; that can only under-count.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fleetlimit.core.keys import BucketKey
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.audit.ledger import (
    Ledger,
    initial_allowance,
    interval_us,
    open_ledger,
    sample_rank,
)
from fleetlimit.limiter.audit.report import (
    PENDING,
    UNKNOWN,
    AuditedLimit,
    CallerAccount,
    IntervalUsage,
    UsageReport,
    dump_bounds,
)

LAG_US: Final = 10 * SECOND_US
"""Time from the end of an interval to its comparison: a replica may miss two reports."""
REPORT_RETENTION_US: Final = 30 * SECOND_US
"""How long the last report of a replica that has left is used."""
_GRACE_US: Final = SECOND_US
"""Upper bound on the time from a decision of the store to its reply being recorded."""
_MAX_GAP: Final = 720
"""Most intervals without an audit after which a ledger is continued: one hour."""
_MAX_AGE_US: Final = 600 * SECOND_US
"""Never open a ledger at an interval older than this: an invalidation that is no longer reported
might lie after it."""

BucketId = tuple[AuditedLimit, str]
"""Limit and caller: a dictionary key, and so a plain tuple."""


@dataclass(slots=True)
class Finding:
    """Result of comparing one policy.

    Args:
        callers: Audited callers.
        intervals: Intervals of callers' limits that were compared.
        permitted: Units that the limits added in these intervals.
        overshoot: Units admitted above a limit, by limit and caller.
    """

    callers: int = 0
    intervals: int = 0
    permitted: float = 0.0
    overshoot: dict[BucketId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """Last report of a replica, and the store time at which it arrived."""

    store_reported_at_us: int
    report: UsageReport


@dataclass(frozen=True, slots=True)
class _ReplicaAccount:
    """One replica's account of a bucket, and the store time of its report."""

    store_reported_at_us: int
    account: CallerAccount


@dataclass(slots=True)
class _OpenLedger:
    """Ledger of a bucket, and the next interval to compare."""

    ledger: Ledger
    next_interval: int


class OvershootDetector:
    """Keeps a ledger for each audited bucket.

    Args:
        audit_callers: Audited callers of each limit.
    """

    def __init__(self, audit_callers: int) -> None:
        self._audit_callers = audit_callers
        self._reports: dict[str, ReceivedReport] = {}
        self._open_ledgers: dict[BucketId, _OpenLedger] = {}
        self._bounds: dict[str, int] | None = None
        self._store_first_compared_at_us = 0
        self._store_complete_at_us = 0
        self._store_last_compared_at_us = 0

    @property
    def bounds_message(self) -> str:
        """Message to all replicas: the largest audited rank of each limit with more callers."""
        return "" if self._bounds is None else dump_bounds(self._bounds)

    def compare(
        self, store_now_us: int, reports: Mapping[str, ReceivedReport]
    ) -> dict[str, Finding]:
        """Compare all intervals that every replica had time to report.

        Args:
            store_now_us: Store time.
            reports: Last report of each replica, by its name.

        Returns:
            A finding for each policy of the reports.
        """
        if store_now_us - self._store_last_compared_at_us > LAG_US:
            # After an outage every replica needs time for a report first.
            self._store_complete_at_us = store_now_us
        self._store_first_compared_at_us = self._store_first_compared_at_us or store_now_us
        self._store_last_compared_at_us = store_now_us
        self._reports.update(reports)
        audited, bounds = self._select_callers()
        findings: dict[str, Finding] = {limit.policy: Finding() for limit, _ in audited}
        if store_now_us - self._store_complete_at_us >= LAG_US:
            self._bounds = bounds
            self._open_ledgers = {
                bucket: ledger for bucket, ledger in self._open_ledgers.items() if bucket in audited
            }
            invalidated_until = self._invalidated_until()
            for (limit, caller), accounts in audited.items():
                key = BucketKey(limit.policy, limit.quota.name, caller)
                self._compare_bucket(
                    limit,
                    caller,
                    accounts,
                    store_begin_at_us=invalidated_until.get(key, 0),
                    store_end_at_us=store_now_us - LAG_US,
                    finding=findings[limit.policy],
                )
            # Only now: reports from before an outage are compared in this call.
            store_oldest_at_us = store_now_us - REPORT_RETENTION_US
            self._reports = {
                name: received
                for name, received in self._reports.items()
                if received.store_reported_at_us > store_oldest_at_us
            }
        for policy, finding in findings.items():
            callers = {caller for limit, caller in self._open_ledgers if limit.policy == policy}
            finding.callers = len(callers)
        return findings

    def _select_callers(self) -> tuple[dict[BucketId, list[_ReplicaAccount]], dict[str, int]]:
        """Return the accounts of each audited bucket, and the bounds of that selection."""
        by_limit: dict[AuditedLimit, dict[str, list[_ReplicaAccount]]] = {}
        for received in self._reports.values():
            for limit, accounts in received.report.accounts.items():
                callers = by_limit.setdefault(limit, {})
                for caller, account in accounts.items():
                    callers.setdefault(caller, []).append(
                        _ReplicaAccount(received.store_reported_at_us, account)
                    )
        audited, bounds = {}, {}
        for limit, callers in by_limit.items():
            smallest = sorted(callers, key=sample_rank)[: self._audit_callers]
            audited.update({(limit, caller): callers[caller] for caller in smallest})
            if len(smallest) < len(callers):
                bounds[str(limit)] = sample_rank(smallest[-1]).checksum
        return audited, bounds

    def _invalidated_until(self) -> dict[BucketKey, float]:
        """Return the store time until which the usage of each invalidated bucket is ignored."""
        latest: dict[BucketKey, float] = {}
        for received in self._reports.values():
            for key, at_us in received.report.invalidations.items():
                until_us = math.inf if at_us == PENDING else at_us
                latest[key] = max(until_us, latest.get(key, 0))
        return latest

    def _compare_bucket(
        self,
        limit: AuditedLimit,
        caller: str,
        accounts: list[_ReplicaAccount],
        *,
        store_begin_at_us: float,
        store_end_at_us: int,
        finding: Finding,
    ) -> None:
        """Compare a bucket's intervals that begin after one store time and end before another."""
        length_us = interval_us(limit.quota)
        last = store_end_at_us // length_us - 1
        bucket = (limit, caller)
        if store_begin_at_us > store_end_at_us or any(
            _may_miss_refund(each, (last + 1) * length_us) for each in accounts
        ):
            self._open_ledgers.pop(bucket, None)
            return
        complete_from = max(each.account.first_interval for each in accounts)
        first = max(int(store_begin_at_us) // length_us + 1, complete_from)
        ledger = self._open_ledgers.get(bucket)
        if ledger is None or ledger.next_interval < first or last - ledger.next_interval > _MAX_GAP:
            # Replicas that left before the first comparison, and their refunds, are unknown.
            known_at_us = max(self._store_first_compared_at_us, store_end_at_us - _MAX_AGE_US)
            first = max(first, known_at_us // length_us)
            ledger = _open_at_known_balance(limit, accounts, first, last, finding)
            if ledger is None:
                self._open_ledgers.pop(bucket, None)
                return
            self._open_ledgers[bucket] = ledger
        for interval in range(ledger.next_interval, last + 1):
            usages = [each.account.usage(interval) for each in accounts]
            units = sum(usage.units for usage in usages if usage is not None)
            finding.intervals += 1
            finding.permitted += ledger.ledger.permitted(interval)
            ledger.ledger, overshoot = ledger.ledger.close(interval, units)
            ledger.next_interval = interval + 1
            if overshoot:
                finding.overshoot[bucket] = finding.overshoot.get(bucket, 0) + overshoot


def _may_miss_refund(replica: _ReplicaAccount, store_end_at_us: int) -> bool:
    """Return whether a replica may have refunded units that it has not reported."""
    has_reported = replica.store_reported_at_us >= store_end_at_us + _GRACE_US
    return replica.account.has_refunds and not has_reported


def _open_at_known_balance(
    limit: AuditedLimit, accounts: list[_ReplicaAccount], first: int, last: int, finding: Finding
) -> _OpenLedger | None:
    """Open a ledger at the first interval whose initial balance a replica has reported."""
    first_uses: dict[int, IntervalUsage] = {}
    for each in accounts:
        for interval in map(int, filter(str.isdecimal, each.account.intervals)):
            usage = each.account.usage(interval)
            if usage is not None and first <= interval <= last:
                found = first_uses.get(interval, usage)
                first_uses[interval] = usage if usage.precedes(found) else found
    known = [interval for interval, use in first_uses.items() if use.spent_before != UNKNOWN]
    if not known:
        return None
    interval = min(known)
    spent_before = first_uses[interval].spent_before
    finding.permitted += initial_allowance(limit.quota, spent_before)
    return _OpenLedger(open_ledger(limit.quota, interval, spent_before), interval)
