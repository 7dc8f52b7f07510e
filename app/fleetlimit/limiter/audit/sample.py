"""What this replica let in, slot by slot, for a sample of callers that all replicas agree on.

Of each limit the callers with the smallest hashes are counted. Who is among the smallest of all is
among the smallest of every replica that saw it: nothing has to be agreed on. Only what the shared
store let in is counted, and by the time at which it did.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.keys import caller_of, policy_of
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.limiter.audit.ledger import SampleRank, creditable_refund, interval_us, sample_rank
from fleetlimit.limiter.audit.report import PENDING, UNKNOWN, AuditedLimit, dump_report
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import AcquireResult

MAX_INTERVALS = 6
"""Slots with anything in them that are kept for each caller: half a minute of steady traffic."""
_NO_THRESHOLD: SampleRank = (sys.maxsize, "")


class CallerUsage:
    """One caller of one limit."""

    __slots__ = (
        *("bottom_k", "first_interval", "has_refunds", "key", "quota"),
        *("rank", "last_seen_at_us", "interval_us", "intervals", "unreported"),
    )

    def __init__(self, bottom_k: "BottomK", key: str, quota: Quota, rank: SampleRank) -> None:
        self.bottom_k = bottom_k
        self.key = key
        self.quota = quota
        self.rank = rank
        self.interval_us = bottom_k.interval_us
        self.last_seen_at_us = 0
        self.first_interval = 0
        self.has_refunds = False
        # As in a statement: first time within the slot, spent before, units.
        self.intervals: dict[int, list[int]] = {}
        self.unreported = 0

    def add(self, at_us: int, spent_before: int, units: int) -> None:
        """Count units.

        Args:
            at_us: When they were let in, on the store's clock.
            spent_before: Units that were spent before them, as the store said.
            units: How many; below 0 for what was given back.
        """
        slot, after_us = divmod(at_us, self.interval_us)
        found = self.intervals.get(slot)
        self.unreported += units
        if found is None:
            self.intervals[slot] = [after_us, spent_before, units]
            if len(self.intervals) > MAX_INTERVALS:
                oldest = min(self.intervals)
                del self.intervals[oldest]
                self.first_interval = max(self.first_interval, oldest + 1)
            return
        found[2] += units
        # Answers may come in another order than the store decided in.
        first_us = found[0]
        if after_us < first_us or (after_us == first_us and spent_before < found[1]):
            found[0], found[1] = after_us, spent_before


class BottomK:
    """The callers of one limit, and the last place among them that is still taken."""

    __slots__ = ("by_caller", "interval_us", "limit", "size", "threshold")

    def __init__(self, limit: AuditedLimit, size: int) -> None:
        self.limit = limit
        self.interval_us = interval_us(limit.quota)
        self.size = size
        self.by_caller: dict[str, CallerUsage] = {}
        self.threshold = _NO_THRESHOLD

    def insert(self, new: CallerUsage) -> CallerUsage | None:
        """Take a caller in, and return the one that has to go for it."""
        _, name = new.rank
        self.by_caller[name] = new
        gone = None
        if len(self.by_caller) > self.size:
            gone = max(self.by_caller.values(), key=lambda each: each.rank)
            del self.by_caller[gone.rank[1]]
        if len(self.by_caller) == self.size:
            self.threshold = max(each.rank for each in self.by_caller.values())
        return gone

    def remove(self, counted: CallerUsage) -> None:
        """Let a caller go, so that its place is free."""
        del self.by_caller[counted.rank[1]]
        self.threshold = _NO_THRESHOLD


IDLE_CALLER_US = 300 * SECOND_US
"""A caller that was not seen for so long makes room for another."""
INVALIDATION_TTL_US = 3_600 * SECOND_US
"""How long a break is told of: as long as a ledger may be left alone and then continued."""
MAX_INVALIDATIONS = 256
_MAX_QUOTAS = 1_000
_MAX_OUTSIDE = 8_192


class UsageSample:
    """Counts what is let in.

    Args:
        max_callers: Callers counted for each limit; 0 counts nothing.
    """

    def __init__(self, max_callers: int) -> None:
        self._max_callers = max_callers
        self._buckets: dict[str, CallerUsage] = {}
        self._limits: dict[AuditedLimit, BottomK] = {}
        # To make a limit takes longer than to know a quota again that was seen before.
        self._limits_by_quota: dict[tuple[str, Quota], BottomK] = {}
        # Those who are not counted, most by far, and will not be until somebody makes room.
        self._outside: dict[str, Quota] = {}
        self._invalidated: dict[str, int] = {}
        self._pending_ack: set[str] = set()

    def record(self, plan: Plan, result: AcquireResult) -> None:
        """Count what the store let in; a caller that it refused is seen, too."""
        # A slice was counted as a whole when it was taken.
        if not self._max_callers or result.prefetched:
            return
        for place, (key, quota, units, lease, group) in enumerate(plan.charges):
            # What is enforced, and stays spent.
            if group or lease:
                continue
            counted = self._buckets.get(key)
            if counted is None or counted.quota is not quota:
                if self._outside.get(key) is quota:
                    continue
                counted = self._find(key, quota)
                if counted is None:
                    continue
            counted.last_seen_at_us = at_us = result.acquired_at_us(place)
            if result.spent and units:
                before = quota.burst - result.statuses[place].remaining - units
                counted.add(at_us, max(0, before), units)

    def record_refunds(
        self, adjustments: Sequence[Adjustment], adjusted_at_us: Sequence[int]
    ) -> None:
        """Take off what was given back; what was spent without asking is beyond by agreement.

        Args:
            adjustments: What the store corrected.
            adjusted_at_us: When it did, for each.
        """
        for each, at_us in zip(adjustments, adjusted_at_us, strict=True):
            if not self._max_callers or each.lease or each.delta >= 0:
                continue
            units = creditable_refund(each.quota, -each.delta, each.acquired_at_us, at_us)
            counted = self._find(each.key, each.quota) if units else None
            if counted is not None:
                counted.last_seen_at_us = at_us
                counted.has_refunds = True
                # The slot's last moment: whatever was asked of the bucket in it was earlier.
                end_us = (at_us // counted.interval_us + 1) * counted.interval_us
                counted.add(end_us - 1, UNKNOWN, -units)

    def invalidate(self, buckets: Iterable[str]) -> None:
        """Forget what was let in of buckets that the store forgot, or may have corrected unheard.

        What counts again counts from the next statement on, for all replicas.
        """
        if not self._max_callers:
            return
        for key in buckets:
            self._invalidated.pop(key, None)
            self._invalidated[key] = PENDING
            # A statement that is on its way says nothing of this.
            self._pending_ack.discard(key)
            if key in self._buckets:
                self._buckets[key].intervals.clear()
        while len(self._invalidated) > MAX_INVALIDATIONS:
            del self._invalidated[next(iter(self._invalidated))]

    def snapshot(self) -> str:
        """Return the statement of this moment."""
        self._pending_ack = {key for key, at_us in self._invalidated.items() if at_us == PENDING}
        accounts = {
            str(limit): {
                name: (each.first_interval, int(each.has_refunds), each.intervals)
                for name, each in callers.by_caller.items()
            }
            for limit, callers in self._limits.items()
        }
        return dump_report(accounts, self._invalidated)

    def acknowledge(self, store_now_us: int) -> None:
        """Take note of when, on the store's clock, the last statement was made."""
        self._invalidated.update(
            dict.fromkeys(self._pending_ack & self._invalidated.keys(), store_now_us)
        )
        self._pending_ack.clear()
        ended = [
            key
            for key, at in self._invalidated.items()
            if 0 <= at < store_now_us - INVALIDATION_TTL_US
        ]
        for key in ended:
            del self._invalidated[key]
        idle = [
            each
            for each in self._buckets.values()
            if each.last_seen_at_us < store_now_us - IDLE_CALLER_US
        ]
        for each in idle:
            self._drop(each)
        unused = [limit for limit, callers in self._limits.items() if not callers.by_caller]
        for limit in unused:
            del self._limits[limit]
            self._outside.clear()
        if unused or len(self._limits_by_quota) > _MAX_QUOTAS:
            self._limits_by_quota.clear()

    def drain_admitted(self, bounds: Mapping[str, int] | None) -> dict[str, int]:
        """Return the units let in since the last time, by policy, for those who are audited.

        Args:
            bounds: The largest hash that is audited, for each limit that has more callers; None
                while that is not known, and nothing is told yet.
        """
        told = {limit.policy: 0 for limit in self._limits}
        if bounds is None:
            return told
        for limit, callers in self._limits.items():
            bound = bounds.get(str(limit), sys.maxsize)
            for each in callers.by_caller.values():
                if each.unreported > 0:
                    told[limit.policy] += each.unreported if each.rank[0] <= bound else 0
                    each.unreported = 0
        return told

    def _find(self, key: str, quota: Quota) -> CallerUsage | None:
        """Return the count of a bucket, if it is one to be counted."""
        policy = policy_of(key)
        callers = self._limits_by_quota.get((policy, quota)) or self._bottom_k_of(policy, quota)
        place = sample_rank(caller_of(key))
        if place > callers.threshold:
            if len(self._outside) >= _MAX_OUTSIDE:
                self._outside.clear()
            self._outside[key] = quota
            return None
        found = self._buckets.get(key)
        if found is not None:
            if found.bottom_k is callers:
                found.quota = quota
                return found
            self._drop(found)
        new = self._buckets[key] = CallerUsage(callers, key, quota, place)
        gone = callers.insert(new)
        if gone is not None:
            del self._buckets[gone.key]
        return new

    def _bottom_k_of(self, policy: str, quota: Quota) -> BottomK:
        limit = AuditedLimit.of(policy, quota)
        callers = self._limits.get(limit)
        if callers is None:
            callers = self._limits[limit] = BottomK(limit, self._max_callers)
        self._limits_by_quota[policy, quota] = callers
        return callers

    def _drop(self, counted: CallerUsage) -> None:
        del self._buckets[counted.key]
        counted.bottom_k.remove(counted)
        self._outside.clear()
