"""In-memory store: runs the core directly, for a single process and for the local fallback."""

import heapq
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from fleetlimit.core.algorithms import State, algorithm_for, concurrency
from fleetlimit.core.charge import ENFORCED_GROUP, Adjustment, Charge
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.limiter.ports import ONE_NODE
from fleetlimit.limiter.store_replies import AcquireResult, AuditReply, HeartbeatReply, StoredReport
from fleetlimit.stores.bucket_clock import BucketClock


def wall_clock_us() -> int:
    """Return microseconds since the epoch."""
    return time.time_ns() // 1_000


DEFAULT_MAX_BUCKETS: Final = 100_000
"""About 50 MB."""
_EXPIRIES_PER_CALL: Final = 16
"""Most buckets that one call examines for expiry: 16 take about 20 us. A call creates few buckets,
so expired buckets are deleted faster than new ones are created."""
_WARNING_INTERVAL_US: Final = 60 * SECOND_US

_log = logging.getLogger("fleetlimit")


class _Expiry:
    """Expiry entry of a bucket.

    Args:
        at_us: Instant at which the bucket is examined, at the latest when it expires.
        key: Key of the bucket; None if it was deleted.
    """

    __slots__ = ("at_us", "is_scheduled", "key")

    def __init__(self, at_us: int, key: str | None) -> None:
        self.at_us = at_us
        self.key = key
        self.is_scheduled = True

    def __lt__(self, other: "_Expiry") -> bool:
        return self.at_us < other.at_us


class MemoryStore:
    """Store of a single process.

    A full store drops the bucket that expires first, which is full again for its next request. It
    logs a warning about that, at most once a minute.

    Args:
        now_us: Clock of the buckets, in microseconds since the epoch.
        max_buckets: Bound on the buckets.
    """

    shared = False
    location = "memory://"
    topology = None

    def __init__(
        self,
        now_us: Callable[[], int] = wall_clock_us,
        *,
        max_buckets: int = DEFAULT_MAX_BUCKETS,
    ) -> None:
        # Without a wrapper, because each check reads the clock.
        self._test_clock = None if now_us is wall_clock_us else BucketClock(now_us)
        self._now_us = self._test_clock.now_us if self._test_clock else now_us
        self._max_buckets = max_buckets
        self._dropped = 0
        self._next_warning_us = 0
        self._buckets: dict[str, tuple[Quota, State]] = {}
        self._expiries: list[_Expiry] = []
        self._expiry_of: dict[str, _Expiry] = {}
        # Entries in `_expiries` of deleted buckets, for new ones. Without a reuse, each request of
        # a new caller under a `concurrency` limit would leave an entry until its lease would end.
        self._unused: list[_Expiry] = []
        self._epoch = secrets.token_hex(8)
        self._reports: dict[str, StoredReport] = {}
        self._departed: set[str] = set()
        self._bounds = ""

    def __len__(self) -> int:
        return len(self._buckets)

    async def open(self, node: str = ONE_NODE) -> None:
        """Do nothing; there is no connection."""

    async def aclose(self) -> None:
        """Delete all buckets."""
        self._buckets.clear()
        self._expiries.clear()
        self._expiry_of.clear()
        self._unused.clear()

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Acquire all charges together; no other task runs in between."""
        now_us = self._now_us()
        self._expire(now_us)
        evaluated = [self._evaluate(charge, now_us, charge.units) for charge in charges]
        denied_groups = {
            charge.group
            for charge, (status, _) in zip(charges, evaluated, strict=True)
            if not status.allowed
        }
        spent = not dry_run and ENFORCED_GROUP not in denied_groups
        statuses = []
        for charge, (status, state) in zip(charges, evaluated, strict=True):
            if spent and charge.group not in denied_groups:
                self._put(charge.key, charge.quota, state)
            elif status.allowed:
                # Nothing is spent, so return the bucket's current status.
                status, _ = self._evaluate(charge, now_us, 0)  # noqa: PLW2901 - as above
            statuses.append(status)
        return AcquireResult(now_us, tuple(statuses), spent)

    def _evaluate(self, charge: Charge, now_us: int, units: int) -> State:
        state = self._read(charge.key, charge.quota, now_us)
        algorithm = algorithm_for(charge.quota.algorithm)
        return algorithm.acquire(charge.quota, state, now_us, units, charge.option)

    def _read(self, key: str, quota: Quota, now_us: int) -> State | None:
        _, written = self._buckets.get(key, (None, None))
        if written is None:
            return None
        state = algorithm_for(quota.algorithm).bounded(quota, written, now_us)
        if state is not written:
            self._put(key, quota, state)
        return state

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Adjust charges that were spent, and return the store's time of each adjustment."""
        now_us = self._now_us()
        self._expire(now_us)
        for adjustment in adjustments:
            quota = adjustment.quota
            state = self._read(adjustment.key, quota, now_us)
            state = algorithm_for(quota.algorithm).adjust(quota, state, now_us, adjustment)
            self._put(adjustment.key, quota, state)
        return [now_us] * len(adjustments)

    async def renew(self, leases: Sequence[Charge]) -> None:
        """Renew leases, and hold expired ones again."""
        now_us = self._now_us()
        self._expire(now_us)
        # A reload may have changed the lifetime of the leases of a bucket.
        units_by_lease: dict[tuple[str, Quota], dict[str, int]] = {}
        for lease in leases:
            units_by_lease.setdefault((lease.key, lease.quota), {})[lease.lease] = lease.units
        for (key, quota), renewed in units_by_lease.items():
            _, state = self._buckets.get(key, (None, None))
            self._put(key, quota, concurrency.renew(quota, state, now_us, renewed))

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete buckets and return how many existed."""
        if self._test_clock is not None:
            self._test_clock.on_reset()
        return sum(self._delete(key) for key in keys)

    async def heartbeat(self, _replica: str, _ttl_us: int) -> HeartbeatReply:
        """Return this process as the only replica."""
        return HeartbeatReply(1, self._epoch)

    async def key_secrets(self) -> frozenset[str]:
        """Return no fingerprint, because no other process uses these buckets."""
        return frozenset()

    async def exchange_reports(
        self, replica: str, report: str, bounds: str, ttl_us: int, *, last: bool = False
    ) -> AuditReply:
        """Store a report; limiters that share this store in a process are audited together."""
        now_us = self._now_us()
        self._bounds = bounds or self._bounds
        self._reports[replica] = StoredReport(now_us, report)
        expired = {
            name
            for name, stored in self._reports.items()
            if stored.store_reported_at_us <= now_us - ttl_us
        }
        for name in expired:
            del self._reports[name]
        self._departed = self._departed | {replica} if last else self._departed - {replica}
        self._departed -= expired
        first = min(self._reports.keys() - self._departed, default="")
        return AuditReply(now_us, self._bounds, dict(self._reports) if first == replica else {})

    def _put(self, key: str, quota: Quota, state: State | None) -> None:
        if state is None:
            self._delete(key)
            return
        if key not in self._expiry_of:
            self._schedule(key, algorithm_for(quota.algorithm).expires_at_us(quota, state) or 0)
        self._buckets[key] = (quota, state)

    def _delete(self, key: str) -> bool:
        """Delete a bucket, and return whether it existed."""
        if self._buckets.pop(key, None) is None:
            return False
        expiry = self._expiry_of.pop(key)
        expiry.key = None
        self._unused.append(expiry)
        return True

    def _schedule(self, key: str, expires_us: int) -> None:
        """Give a new bucket an expiry entry: one of a deleted bucket, if it is not later."""
        while self._unused:
            expiry = self._unused[-1]
            if expiry.at_us > expires_us:
                break
            self._unused.pop()
            if expiry.is_scheduled:
                expiry.key = key
                self._expiry_of[key] = expiry
                return
        expiry = self._expiry_of[key] = _Expiry(expires_us, key)
        heapq.heappush(self._expiries, expiry)

    def _expire(self, now_us: int) -> None:
        """Delete some expired buckets, and more than that if there are too many buckets.

        The algorithms treat a bucket that has expired as full, so it may be deleted later.
        """
        for _ in range(_EXPIRIES_PER_CALL):
            if not self._expiries or self._expiries[0].at_us > now_us:
                break
            self._expire_first(now_us)
        while len(self._buckets) > self._max_buckets:
            self._drop_first(now_us)

    def _expire_first(self, now_us: int) -> bool:
        """Delete the bucket of the first expiry entry; return False if its use has extended it."""
        expiry = self._expiries[0]
        found = None if expiry.key is None else self._buckets[expiry.key]
        expires_us = algorithm_for(found[0].algorithm).expires_at_us(*found) if found else None
        if expires_us is not None and expires_us > now_us:
            expiry.at_us = expires_us
            heapq.heapreplace(self._expiries, expiry)
            return False
        self._pop_first()
        return True

    def _pop_first(self) -> None:
        """Remove the first expiry entry, and delete its bucket."""
        expiry = heapq.heappop(self._expiries)
        expiry.is_scheduled = False
        if expiry.key is not None:
            del self._buckets[expiry.key], self._expiry_of[expiry.key]

    def _drop_first(self, now_us: int) -> None:
        """Drop the bucket that expires first, or nearly so."""
        for _ in range(_EXPIRIES_PER_CALL):
            first_us = self._expiries[0].at_us
            if self._expire_first(now_us):
                return
            if self._expiries[0].at_us <= first_us:
                break
        self._pop_first()
        self._dropped += 1
        if now_us >= self._next_warning_us:
            self._next_warning_us = now_us + _WARNING_INTERVAL_US
            _log.warning(
                "memory_store.full: %d buckets dropped before their expiry, which forgets what "
                "their callers spent: set FLEETLIMIT_MEMORY_BUCKETS above %d, or use a shared "
                "store",
                self._dropped,
                self._max_buckets,
            )
