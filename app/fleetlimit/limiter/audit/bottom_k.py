"""Bottom-k sample: the callers of a limit with the smallest ranks, and their usage.

A caller among the smallest of all replicas is among the smallest of every replica that it uses,
which needs no coordination.
"""

import sys
from typing import Final

from fleetlimit.core.quota import Quota
from fleetlimit.limiter.audit.ledger import SampleRank, interval_us
from fleetlimit.limiter.audit.report import AuditedLimit, IntervalUsage

MAX_INTERVALS: Final = 6
"""Non-empty intervals that are kept for each caller: half a minute of steady traffic."""
_NO_THRESHOLD: Final[SampleRank] = SampleRank(sys.maxsize, "")


class CallerUsage:
    """Usage of one limit by one caller.

    Args:
        bottom_k: The callers of the limit.
        key: Key of the bucket.
        quota: Quota of the bucket.
        rank: Rank of the caller.
    """

    __slots__ = (
        "bottom_k",
        "earlier",
        "first_interval",
        "has_refunds",
        "interval_us",
        "intervals",
        "is_shared",
        "key",
        "quota",
        "rank",
        "store_last_seen_at_us",
        "unreported",
    )

    def __init__(self, bottom_k: "BottomK", key: str, quota: Quota, rank: SampleRank) -> None:
        self.bottom_k = bottom_k
        self.key = key
        self.quota = quota
        self.rank = rank
        self.interval_us = bottom_k.interval_us
        self.store_last_seen_at_us = 0
        self.first_interval = 0
        self.has_refunds = False
        self.intervals: dict[int, IntervalUsage] = {}
        self.unreported = 0
        # Usage under other limits of the bucket, which decided before and may do so again.
        self.earlier: dict[AuditedLimit, CallerUsage] = {}
        # Whether several limits decide, as for tiers that share a bucket.
        self.is_shared = False

    def add(self, store_at_us: int, spent_before: int, units: int) -> None:
        """Count units.

        Args:
            store_at_us: Store time at which they were admitted.
            spent_before: Units that were spent in the bucket before them, or `UNKNOWN`.
            units: Number of units; negative for a refund.
        """
        interval, offset_us = divmod(store_at_us, self.interval_us)
        usage = self.intervals.get(interval)
        self.unreported += units
        if usage is None:
            self.intervals[interval] = IntervalUsage(offset_us, spent_before, units)
            if len(self.intervals) > MAX_INTERVALS:
                oldest = min(self.intervals)
                del self.intervals[oldest]
                self.first_interval = max(self.first_interval, oldest + 1)
            return
        usage.units += units
        # Replies may arrive in another order than the store decided in.
        first_us = usage.offset_us
        if offset_us < first_us or (offset_us == first_us and spent_before < usage.spent_before):
            usage.offset_us, usage.spent_before = offset_us, spent_before


class BottomK:
    """The `size` callers of one limit with the smallest ranks.

    Args:
        limit: The limit.
        size: Bound on the callers.
    """

    __slots__ = ("by_caller", "interval_us", "limit", "size", "threshold")

    def __init__(self, limit: AuditedLimit, size: int) -> None:
        self.limit = limit
        self.interval_us = interval_us(limit.quota)
        self.size = size
        self.by_caller: dict[str, CallerUsage] = {}
        # A caller with a larger rank is not counted.
        self.threshold = _NO_THRESHOLD

    def insert(self, usage: CallerUsage) -> CallerUsage | None:
        """Add a caller, and return the one that is removed for it."""
        self.by_caller[usage.rank.caller] = usage
        removed = None
        if len(self.by_caller) > self.size:
            removed = max(self.by_caller.values(), key=lambda each: each.rank)
            del self.by_caller[removed.rank.caller]
        if len(self.by_caller) == self.size:
            self.threshold = max(each.rank for each in self.by_caller.values())
        return removed

    def remove(self, usage: CallerUsage) -> None:
        """Remove a caller, so that another one can be added."""
        del self.by_caller[usage.rank.caller]
        self.threshold = _NO_THRESHOLD
