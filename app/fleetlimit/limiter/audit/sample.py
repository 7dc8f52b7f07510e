"""Usage sample: admitted units by interval, for a sample of callers that all replicas agree on.

Only admissions of the shared store are counted, at store time.
"""

import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.charge import ENFORCED_GROUP, Adjustment, Charge
from fleetlimit.core.keys import parse_bucket_key
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.limiter.audit.bottom_k import BottomK, CallerUsage
from fleetlimit.limiter.audit.ledger import SampleRank, creditable_refund, sample_rank
from fleetlimit.limiter.audit.report import (
    PENDING,
    UNKNOWN,
    AuditedLimit,
    dump_account,
    dump_report,
)
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.store_replies import AcquireResult

IDLE_CALLER_US: Final = 300 * SECOND_US
"""Time after which a caller without requests is removed for another one."""
INVALIDATION_TTL_US: Final = 3_600 * SECOND_US
"""How long an invalidation is reported: as long as a ledger may be continued after a gap."""
MAX_INVALIDATIONS: Final = 256
MAX_OWN_LIMITS: Final = 32
"""Audited limits of callers under one policy, besides those of the policy: about a report of 32
callers for each of its tiers."""
MAX_LIMITS: Final = 2_000
"""Audited limits. Code may make a policy for each caller; further limits are not audited until
others have no callers any more."""
_FAILED: Final = "audit.failed"
_MAX_QUOTAS = 1_000
_MAX_EARLIER = 8
"""Limits of one bucket that are remembered besides those that are reported."""
_MAX_OUTSIDE = 8_192


class UsageSample:
    """Counts admitted units.

    Args:
        audit_callers: Callers counted for each limit; 0 counts nothing.
        bucket_events: Reports which buckets' usage is not certain any more.
        failure_log: Log of failures: the methods that decisions call raise nothing. By default one
            of its own.
    """

    def __init__(
        self,
        audit_callers: int,
        bucket_events: BucketEvents,
        failure_log: FailureLog | None = None,
    ) -> None:
        self._audit_callers = audit_callers
        self._failure_log = failure_log or FailureLog(MonotonicClock())
        # The usage that a bucket was last counted for: tiers may share a bucket, and have limits
        # and counts of their own.
        self._buckets: dict[str, CallerUsage] = {}
        self._limits: dict[AuditedLimit, BottomK] = {}
        # By policy and quota: making an `AuditedLimit` takes longer than this lookup.
        self._limits_by_quota: BoundedCache[tuple[str, Quota], BottomK] = BoundedCache(_MAX_QUOTAS)
        # Buckets of callers above the threshold, which are most callers by far.
        self._outside: BoundedCache[str, Quota] = BoundedCache(_MAX_OUTSIDE)
        # Rank of each own limit of a caller, by policy.
        self._own_limits: dict[str, dict[AuditedLimit, int]] = {}
        self._invalidated: dict[str, int] = {}
        self._pending_ack: set[str] = set()
        bucket_events.subscribe(on_reset=self.invalidate, on_refund_lost=self.invalidate)

    @property
    def audit_callers(self) -> int:
        """Callers counted for each limit; 0 counts nothing."""
        return self._audit_callers

    def record(self, charges: Sequence[Charge], result: AcquireResult) -> None:
        """Count a store's reply; a caller that it denied counts as seen.

        Args:
            charges: The charges.
            result: The store's reply to them.
        """
        # A prefetch was counted as a whole when it was acquired.
        if not self._audit_callers or result.prefetched:
            return
        try:
            self._record(charges, result)
        except Exception as error:  # noqa: BLE001 - it must not fail the decision
            self._failure_log.write(_FAILED, error)

    def _record(self, charges: Sequence[Charge], result: AcquireResult) -> None:
        for index, charge in enumerate(charges):
            # Only enforced charges that stay spent.
            if charge.group != ENFORCED_GROUP or charge.lease:
                continue
            key, quota, units = charge.key, charge.quota, charge.units
            usage = self._buckets.get(key)
            if usage is None or usage.quota is not quota:
                if self._outside.get(key) is quota:
                    continue
                usage = self._find(key, quota, is_own=charge.is_own)
                if usage is None:
                    continue
            usage.store_last_seen_at_us = store_at_us = result.store_acquired_at_us(index)
            if result.spent and units:
                status = result.statuses[index]
                if quota.calendar is not None:
                    # A window that began under another calendar keeps its end. Its units are not
                    # those of a window of this one.
                    _, end_us = quota.calendar.window_at(store_at_us)
                    if store_at_us + status.reset_after_us != end_us:
                        continue
                spent_before = quota.burst - status.remaining - units
                usage.add(store_at_us, max(0, spent_before), units)

    def record_refunds(
        self, adjustments: Sequence[Adjustment], store_adjusted_at_us: Sequence[int | None]
    ) -> None:
        """Count refunds. Units that were spent unconditionally are permitted to exceed a limit.

        Args:
            adjustments: Adjustments.
            store_adjusted_at_us: Store time of each; None for one that the store did not make.
        """
        try:
            self._record_refunds(adjustments, store_adjusted_at_us)
        except Exception as error:  # noqa: BLE001 - it must not fail the request
            self._failure_log.write(_FAILED, error)

    def _record_refunds(
        self, adjustments: Sequence[Adjustment], store_adjusted_at_us: Sequence[int | None]
    ) -> None:
        for each, store_at_us in zip(adjustments, store_adjusted_at_us, strict=True):
            if not self._audit_callers or each.lease or each.delta >= 0 or store_at_us is None:
                continue
            units = creditable_refund(
                each.quota, -each.delta, each.store_acquired_at_us, store_at_us
            )
            usage = self._find(each.key, each.quota, is_own=each.is_own) if units else None
            if usage is not None:
                usage.store_last_seen_at_us = store_at_us
                usage.has_refunds = True
                # The last moment of the interval, so that it is never its first use.
                end_us = (store_at_us // usage.interval_us + 1) * usage.interval_us
                usage.add(end_us - 1, UNKNOWN, -units)

    def invalidate(self, keys: Iterable[str]) -> None:
        """Invalidate buckets that were reset, or refunded with the reply lost.

        All replicas ignore their usage before the next report.
        """
        if not self._audit_callers:
            return
        try:
            self._invalidate(keys)
        except Exception as error:  # noqa: BLE001 - it must not fail the request
            self._failure_log.write(_FAILED, error)

    def _invalidate(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._invalidated.pop(key, None)
            self._invalidated[key] = PENDING
            # A report that is in flight does not contain this invalidation.
            self._pending_ack.discard(key)
            if key in self._buckets:
                current = self._buckets[key]
                for bottom_k in self._limits.values():
                    usage = bottom_k.by_caller.get(current.rank.caller)
                    if usage is not None and usage.key == key:
                        usage.intervals.clear()
                for usage in current.earlier.values():
                    usage.intervals.clear()
        while len(self._invalidated) > MAX_INVALIDATIONS:
            del self._invalidated[next(iter(self._invalidated))]

    def snapshot(self) -> str:
        """Return the report of this moment."""
        self._pending_ack = {key for key, at in self._invalidated.items() if at == PENDING}
        accounts = {
            str(limit): {
                caller: dump_account(
                    each.first_interval, each.intervals, has_refunds=each.has_refunds
                )
                for caller, each in bottom_k.by_caller.items()
            }
            for limit, bottom_k in self._limits.items()
        }
        return dump_report(accounts, self._invalidated)

    def acknowledge(self, store_now_us: int) -> None:
        """Record the store time at which the last report was stored, and drop expired entries."""
        acknowledged = self._pending_ack & self._invalidated.keys()
        self._invalidated.update(dict.fromkeys(acknowledged, store_now_us))
        self._pending_ack.clear()
        oldest_us = store_now_us - INVALIDATION_TTL_US
        for key in [key for key, at in self._invalidated.items() if 0 <= at < oldest_us]:
            del self._invalidated[key]
        idle_since_us = store_now_us - IDLE_CALLER_US
        for bottom_k in self._limits.values():
            for usage in list(bottom_k.by_caller.values()):
                if usage.store_last_seen_at_us < idle_since_us:
                    self._drop(usage)
        unused = [limit for limit, bottom_k in self._limits.items() if not bottom_k.by_caller]
        for limit in unused:
            del self._limits[limit]
            self._forget_own_limit(limit)
            self._outside.clear()
        if unused:
            self._limits_by_quota.clear()

    def drain_admitted(self, bounds: Mapping[str, int] | None) -> dict[str, int]:
        """Return the units that audited callers were admitted since the last call, by policy.

        Args:
            bounds: Largest audited rank, for each limit with more callers; None if it is not known
                yet, and units are kept for a later call.
        """
        admitted = {limit.policy: 0 for limit in self._limits}
        if bounds is None:
            return admitted
        for limit, bottom_k in self._limits.items():
            bound = bounds.get(str(limit), sys.maxsize)
            for usage in bottom_k.by_caller.values():
                if usage.unreported > 0:
                    if usage.rank.checksum <= bound:
                        admitted[limit.policy] += usage.unreported
                    usage.unreported = 0
        return admitted

    def _find(self, key: str, quota: Quota, *, is_own: bool) -> CallerUsage | None:
        """Return the usage of a bucket, or None if its caller or its limit is not in the sample."""
        bucket_key = parse_bucket_key(key)
        policy = bucket_key.policy
        bottom_k = self._limits_by_quota.get((policy, quota))
        if bottom_k is None:
            if not self._is_audited(AuditedLimit.of(policy, quota), is_own=is_own):
                self._outside.put(key, quota)
                return None
            bottom_k = self._bottom_k_of(policy, quota)
        rank = sample_rank(bucket_key.caller)
        if rank > bottom_k.threshold:
            self._outside.put(key, quota)
            return None
        usage = bottom_k.by_caller.get(rank.caller)
        if usage is not None:
            current = self._buckets.get(key)
            if current is not None and current is not usage:
                usage.earlier, current.earlier = current.earlier, {}
            usage.quota = quota
            self._buckets[key] = usage
            return usage
        usage = self._replace(self._buckets.get(key), bottom_k, key, rank)
        usage.quota = quota
        self._buckets[key] = usage
        removed = bottom_k.insert(usage)
        if removed is not None:
            self._forget(removed)
        return usage

    def _is_audited(self, limit: AuditedLimit, *, is_own: bool) -> bool:
        if limit in self._limits:
            return True
        if len(self._limits) >= MAX_LIMITS:
            return False
        return not is_own or self._admit_own_limit(limit)

    def _replace(
        self, current: CallerUsage | None, bottom_k: BottomK, key: str, rank: SampleRank
    ) -> CallerUsage:
        """Return the usage under another limit than the one that last decided.

        After a reload the earlier limit does not decide again, and is not reported. If it does
        decide again, tiers share the bucket, and each limit is reported.
        """
        if current is None:
            return CallerUsage(bottom_k, key, bottom_k.limit.quota, rank)
        usage = current.earlier.pop(bottom_k.limit, None)
        if usage is not None:
            usage.bottom_k, usage.is_shared, current.is_shared = bottom_k, True, True
        else:
            usage = CallerUsage(bottom_k, key, bottom_k.limit.quota, rank)
        usage.earlier = current.earlier
        current.earlier = {}
        if not current.is_shared:
            self._drop(current)
            usage.earlier[current.bottom_k.limit] = current
            if len(usage.earlier) > _MAX_EARLIER:
                del usage.earlier[next(iter(usage.earlier))]
        return usage

    def _bottom_k_of(self, policy: str, quota: Quota) -> BottomK:
        limit = AuditedLimit.of(policy, quota)
        bottom_k = self._limits.get(limit)
        if bottom_k is None:
            bottom_k = self._limits[limit] = BottomK(limit, self._audit_callers)
        self._limits_by_quota.put((policy, quota), bottom_k)
        return bottom_k

    def _admit_own_limit(self, limit: AuditedLimit) -> bool:
        """Return whether a caller's own limit is audited, perhaps in place of another one.

        Callers may have any number of limits of their own. Under one policy those with the smallest
        ranks are audited, which all replicas agree on as they do on callers.
        """
        own = self._own_limits.setdefault(limit.policy, {})
        rank = zlib.crc32(str(limit).encode())
        if len(own) >= MAX_OWN_LIMITS:
            last = max(own, key=lambda each: own[each])
            if rank >= own[last]:
                return False
            self._remove_limit(last)
        own[limit] = rank
        return True

    def _remove_limit(self, limit: AuditedLimit) -> None:
        bottom_k = self._limits.pop(limit, None)
        for usage in list(bottom_k.by_caller.values()) if bottom_k is not None else ():
            self._drop(usage)
        self._limits_by_quota.clear()
        self._outside.clear()
        self._forget_own_limit(limit)

    def _forget_own_limit(self, limit: AuditedLimit) -> None:
        own = self._own_limits.get(limit.policy)
        if own is not None:
            own.pop(limit, None)
            if not own:
                del self._own_limits[limit.policy]

    def _drop(self, usage: CallerUsage) -> None:
        self._forget(usage)
        usage.bottom_k.remove(usage)
        self._outside.clear()

    def _forget(self, usage: CallerUsage) -> None:
        if self._buckets.get(usage.key) is usage:
            del self._buckets[usage.key]
