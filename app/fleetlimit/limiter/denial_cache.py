"""Denial cache: denied charges until their retry time, so that a flood does not reach the store.

An entry is valid for at most one second. This bounds how long other replicas deny after a reset or
refund at one replica. A hit requires the same quota, because another quota belongs to another
policy, and at least the denied units: a smaller charge may fit, a larger charge waits longer.
"""

from collections.abc import Sequence
from typing import Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.charge import ENFORCED_GROUP, Charge
from fleetlimit.core.decision import BucketStatus, Decision, Source
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US, Algorithm, Quota
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Clock

MAX_AGE_US: Final = SECOND_US
MAX_ENTRIES: Final = 10_000
DECISION_REUSE_US: Final = 10 * MILLISECOND_US
"""How long a decision is returned unchanged, and so the largest error of its durations. Making a
new decision is the largest part of the cost of a denial in a flood."""


class _CachedDenial:
    """A denied charge, and the last decision that was made from it."""

    __slots__ = (
        "charge",
        "decision",
        "mono_added_at_us",
        "mono_expires_at_us",
        "mono_reuse_until_us",
        "plan",
        "status",
    )

    def __init__(self, charge: Charge, status: BucketStatus, mono_added_at_us: int) -> None:
        self.charge = charge
        self.status = status
        self.mono_added_at_us = mono_added_at_us
        self.mono_expires_at_us = mono_added_at_us + min(status.retry_after_us, MAX_AGE_US)
        self.plan: Plan | None = None
        self.decision: Decision | None = None
        self.mono_reuse_until_us = mono_added_at_us


class DenialCache:
    """Denied charges by the key of their bucket.

    Args:
        clock: Clock of this process.
        bucket_events: Reports which buckets may have units again.
        max_entries: Bound of the cache.
    """

    def __init__(
        self, clock: Clock, bucket_events: BucketEvents, *, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._clock = clock
        self._entries: BoundedCache[str, _CachedDenial] = BoundedCache(max_entries)
        bucket_events.subscribe(
            on_reset=self.discard, on_adjusted=self.discard, on_policies_replaced=self.clear
        )

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, charge: Charge, status: BucketStatus) -> None:
        """Cache a denial, except for leases: they can be released at any time."""
        if charge.quota.algorithm is not Algorithm.CONCURRENCY:
            entry = _CachedDenial(charge, status, self._clock.monotonic_us())
            self._entries.put(charge.key, entry)

    def lookup(self, plan: Plan, mono_now_us: int) -> Decision | None:
        """Return the decision on a plan of which a charge is cached as denied, or None.

        Args:
            plan: Charges of the check.
            mono_now_us: Monotonic microseconds.
        """
        is_cached = False
        for charge in plan.charges:
            entry = self._entries.get(charge.key)
            if entry is not None:
                if entry.plan is plan and mono_now_us < entry.mono_reuse_until_us:
                    return entry.decision
                is_cached = True
        if not is_cached:
            return None
        statuses = [self._status(charge, mono_now_us) for charge in plan.charges]
        for charge, status in zip(plan.charges, statuses, strict=True):
            entry = self._entries.get(charge.key) if status is not None else None
            if entry is not None:
                decision = plan.decision(statuses, source=Source.CACHE, spent=False)
                entry.plan, entry.decision = plan, decision
                entry.mono_reuse_until_us = min(
                    mono_now_us + DECISION_REUSE_US, entry.mono_expires_at_us
                )
                return decision
        return None

    def _status(self, charge: Charge, mono_now_us: int) -> BucketStatus | None:
        """Return the cached status of a charge with the time that is left, or None.

        Charges of policies in shadow mode deny nothing and are not looked up.
        """
        if charge.group != ENFORCED_GROUP:
            return None
        entry = self._entries.get(charge.key)
        if entry is None:
            return None
        if mono_now_us >= entry.mono_expires_at_us:
            self._entries.discard(charge.key)
            return None
        more_units = charge.units - entry.charge.units
        if more_units < 0 or charge.quota != entry.charge.quota:
            return None
        age_us = mono_now_us - entry.mono_added_at_us
        status = entry.status
        retry_after_us = status.retry_after_us
        if more_units:
            retry_after_us = _retry_after_us(charge.quota, status, more_units)
        return BucketStatus(
            False,  # noqa: FBT003 - the status of a denial
            status.remaining,
            retry_after_us - age_us,
            max(1, status.next_unit_after_us - age_us),
            max(1, status.reset_after_us - age_us),
        )

    def discard(self, keys: Sequence[str]) -> None:
        """Drop the denials of these buckets."""
        for key in keys:
            self._entries.discard(key)

    def clear(self) -> None:
        """Drop all denials."""
        self._entries.clear()


def _retry_after_us(quota: Quota, status: BucketStatus, more_units: int) -> int:
    """Return the wait of a charge of more units than the denied charge, in microseconds."""
    match quota.algorithm:
        case Algorithm.TOKEN_BUCKET:
            # Rounded up: the client must not come before the last unit.
            return status.retry_after_us + -(-more_units * quota.period_us // quota.limit)
        case Algorithm.FIXED_WINDOW:
            return status.retry_after_us
        case _:
            # The wait depends on the times of earlier requests; it ends with the last of them.
            return max(status.retry_after_us, status.reset_after_us)
