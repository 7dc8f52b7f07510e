"""Charges: units requested of buckets, and their later adjustment."""

from dataclasses import dataclass
from typing import Final

from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Later correction of a charge that was spent.

    Args:
        key: Key of the bucket in the store.
        quota: Quota of the bucket.
        delta: Units to refund (negative) or to spend unconditionally (positive).
        store_acquired_at_us: Store time at which the charge was spent.
        units: Units that were spent.
        lease: Name of the lease that the charge created.
        is_own: Whether the quota is the caller's own, and not the policy's.
    """

    key: str
    quota: Quota
    delta: int
    store_acquired_at_us: int
    units: int
    lease: str = ""
    is_own: bool = False


ENFORCED_GROUP: Final = 0
"""Group of the charges whose policies are enforced."""


@dataclass(slots=True)
class Charge:
    """Units requested of one bucket.

    Args:
        key: Key of the bucket in the store.
        quota: Quota of the bucket.
        units: Units to spend, at most `quota.burst`.
        lease: Name of the lease that a `concurrency` bucket creates.
        group: Charges of `ENFORCED_GROUP` are spent together or not at all. Each other group is
            spent together, if it fits, whenever that one is; it never denies a request (shadow
            mode).
        is_own: Whether the quota is the caller's own, and not the policy's.
        ahead_us: Microseconds after the charge in which its units may still be used, for a token
            bucket; see `core/prefetch.py`.
    """

    key: str
    quota: Quota
    units: int
    lease: str = ""
    group: int = ENFORCED_GROUP
    is_own: bool = False
    ahead_us: int = 0

    @property
    def option(self) -> str:
        """What an algorithm needs besides the units: the lease, or the microseconds ahead."""
        return self.lease or (str(self.ahead_us) if self.ahead_us else "")

    def adjustment(self, delta: int, store_acquired_at_us: int) -> Adjustment:
        """Return an adjustment of this charge, which was spent at this store time."""
        return Adjustment(
            self.key,
            self.quota,
            delta,
            store_acquired_at_us,
            self.units,
            self.lease,
            self.is_own,
        )
