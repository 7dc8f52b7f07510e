"""Compares what all replicas let in with what the limits permit; one replica does it for all.

It judges a slot once every replica had the time to state it, and never by guessing: where something
may be missing that would have made room, the bucket's audit starts anew. What a replica let in and
did not live to state is missing, too, which can only make the sum too small.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    UsageReport,
    dump_bounds,
)

LAG_US = 10 * SECOND_US
"""A slot is judged so long after its end: time for a replica to miss two statements."""
REPORT_RETENTION_US = 30 * SECOND_US
"""How long the last statement of a replica that has gone is remembered."""
_GRACE_US = SECOND_US
"""An answer of the store may be so long on its way to a replica that makes a statement."""
_MAX_GAP = 720
"""Slots without any audit, after which a ledger is not worth being continued: an hour."""
_MAX_AGE_US = 600 * SECOND_US
"""A ledger is not opened at an older slot: it could be from before a break that nobody tells of."""


@dataclass(slots=True)
class Finding:
    """What was found of a policy since the last time.

    Args:
        callers: Callers that are audited.
        intervals: Slots of callers' limits that were compared.
        permitted: Units that the limits added in these slots.
        overshoot: Units let in beyond a limit, by limit and caller.
    """

    callers: int = 0
    intervals: int = 0
    permitted: float = 0.0
    overshoot: dict[tuple[AuditedLimit, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _ReplicaAccount:
    """One replica's account of a bucket, stated at a time of the store's clock."""

    reported_at_us: int
    account: CallerAccount


@dataclass(slots=True)
class _OpenLedger:
    """A bucket's ledger, and the slot that is judged next."""

    ledger: Ledger
    next_interval: int


class OvershootDetector:
    """Keeps a ledger for each bucket that is audited.

    Args:
        max_callers: Callers audited for each limit.
    """

    def __init__(self, max_callers: int) -> None:
        self._max_callers = max_callers
        self._reports: dict[str, tuple[int, UsageReport]] = {}
        self._open_ledgers: dict[tuple[AuditedLimit, str], _OpenLedger] = {}
        self._bounds: dict[str, int] | None = None
        self._first_compared_at_us = 0
        self._complete_since_us = 0
        self._last_compared_at_us = 0

    @property
    def bounds_message(self) -> str:
        """What all replicas are to know: the largest hash that is audited, where some are not."""
        return "" if self._bounds is None else dump_bounds(self._bounds)

    def compare(
        self, store_now_us: int, reports: Mapping[str, tuple[int, UsageReport]]
    ) -> dict[str, Finding]:
        """Judge what can be judged by now.

        Args:
            store_now_us: The store's time.
            reports: Each replica's last statement, and when it was made.

        Returns:
            A finding for each policy of which anything was stated.
        """
        if store_now_us - self._last_compared_at_us > LAG_US:
            # After an outage, too, every replica is to have had the time for a statement.
            self._complete_since_us = store_now_us
        self._first_compared_at_us = self._first_compared_at_us or store_now_us
        self._last_compared_at_us = store_now_us
        self._reports.update(reports)
        chosen, bounds = self._select_callers()
        found: dict[str, Finding] = {limit.policy: Finding() for limit, _ in chosen}
        if store_now_us - self._complete_since_us >= LAG_US:
            self._bounds = bounds
            self._open_ledgers = {
                key: each for key, each in self._open_ledgers.items() if key in chosen
            }
            breaks = self._invalidated_until()
            for (limit, caller), said in chosen.items():
                self._compare_bucket(
                    limit,
                    caller,
                    said,
                    begin_us=breaks.get((limit.policy, limit.quota.name, caller), 0),
                    end_us=store_now_us - LAG_US,
                    finding=found[limit.policy],
                )
            # Not before: what a replica stated before an outage is judged only now.
            self._reports = {
                name: heard
                for name, heard in self._reports.items()
                if heard[0] > store_now_us - REPORT_RETENTION_US
            }
        for policy, finding in found.items():
            callers = {caller for limit, caller in self._open_ledgers if limit.policy == policy}
            finding.callers = len(callers)
        return found

    def _select_callers(
        self,
    ) -> tuple[dict[tuple[AuditedLimit, str], list[_ReplicaAccount]], dict[str, int]]:
        """Return what was said of each bucket that is audited, and the bounds of that choice."""
        union: dict[AuditedLimit, dict[str, list[_ReplicaAccount]]] = {}
        for at_us, statement in self._reports.values():
            for limit, accounts in statement.accounts.items():
                callers = union.setdefault(limit, {})
                for caller, account in accounts.items():
                    callers.setdefault(caller, []).append(_ReplicaAccount(at_us, account))
        chosen, bounds = {}, {}
        for limit, callers in union.items():
            smallest = sorted(callers, key=sample_rank)[: self._max_callers]
            chosen.update({(limit, caller): callers[caller] for caller in smallest})
            if len(smallest) < len(callers):
                bounds[str(limit)] = sample_rank(smallest[-1])[0]
        return chosen, bounds

    def _invalidated_until(self) -> dict[tuple[str, str, str], float]:
        """Return until when nothing counts, by policy, limit and caller."""
        found: dict[tuple[str, str, str], float] = {}
        for _, statement in self._reports.values():
            for key, at_us in statement.invalidations.items():
                until = math.inf if at_us == PENDING else at_us
                found[key] = max(until, found.get(key, 0))
        return found

    def _compare_bucket(
        self,
        limit: AuditedLimit,
        caller: str,
        accounts: list[_ReplicaAccount],
        *,
        begin_us: float,
        end_us: int,
        finding: Finding,
    ) -> None:
        """Judge a bucket's slots that begin after one time and end before another."""
        length = interval_us(limit.quota)
        last = end_us // length - 1
        key = (limit, caller)
        if begin_us > end_us or any(
            _may_miss_refund(each, (last + 1) * length) for each in accounts
        ):
            self._open_ledgers.pop(key, None)
            return
        first = max(
            int(begin_us) // length + 1, *(each.account.first_interval for each in accounts)
        )
        found = self._open_ledgers.get(key)
        if found is None or found.next_interval < first or last - found.next_interval > _MAX_GAP:
            # Who was gone before the first comparison is not known, nor what it gave back.
            first = max(
                first, self._first_compared_at_us // length, (end_us - _MAX_AGE_US) // length
            )
            found = _open_at_known_balance(limit, accounts, first, last, finding)
            if found is None:
                self._open_ledgers.pop(key, None)
                return
            self._open_ledgers[key] = found
        for slot in range(found.next_interval, last + 1):
            units = sum(
                spent.units for each in accounts if (spent := each.account.usage(slot)) is not None
            )
            finding.intervals += 1
            finding.permitted += found.ledger.permitted(slot)
            found.ledger, beyond = found.ledger.close(slot, units)
            found.next_interval = slot + 1
            if beyond:
                finding.overshoot[key] = finding.overshoot.get(key, 0) + beyond


def _may_miss_refund(account: _ReplicaAccount, end_us: int) -> bool:
    """Tell whether a replica may have given units back that it has not stated."""
    return account.account.has_refunds and account.reported_at_us < end_us + _GRACE_US


def _open_at_known_balance(
    limit: AuditedLimit, accounts: list[_ReplicaAccount], first: int, last: int, finding: Finding
) -> _OpenLedger | None:
    """Begin with the first slot of which the store's own word says how the bucket stood."""
    slots: dict[int, tuple[int, int]] = {}
    for each in accounts:
        for slot in map(int, filter(str.isdecimal, each.account.intervals)):
            spent = each.account.usage(slot)
            if spent is not None and first <= slot <= last:
                word = (spent.offset_us, spent.spent_before)
                slots[slot] = min(word, slots.get(slot, word))
    told = {slot: before for slot, (_, before) in slots.items() if before != UNKNOWN}
    if not told:
        return None
    slot = min(told)
    finding.permitted += initial_allowance(limit.quota, told[slot])
    return _OpenLedger(open_ledger(limit.quota, slot, told[slot]), slot)
