"""What a check asks of the buckets, and what is set right afterwards."""

from dataclasses import dataclass
from typing import NamedTuple

from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A later correction of a charge that was spent.

    Args:
        key: The bucket's key in the store.
        quota: The bucket's limit.
        delta: Units to give back (negative) or to spend without asking (positive); 0 renews a
            lease.
        acquired_at_us: When the charge was spent, on the store's clock.
        units: How many units had been spent.
        lease: Name of the lease that the charge recorded.
    """

    key: str
    quota: Quota
    delta: int
    acquired_at_us: int
    units: int
    lease: str = ""


class Charge(NamedTuple):
    """Units asked of one bucket.

    Args:
        key: The bucket's key in the store.
        quota: The bucket's limit.
        units: Units to spend, at most `quota.burst`.
        lease: Name of the lease that a `concurrency` bucket records.
        group: Charges of group 0 are spent together or not at all. Each other group is spent
            together, if it fits, whenever group 0 is; it never refuses (shadow).
    """

    key: str
    quota: Quota
    units: int
    lease: str = ""
    group: int = 0

    def adjustment(self, delta: int, acquired_at_us: int) -> Adjustment:
        """Return the correction of this charge, spent at `taken_us` on the store's clock."""
        return Adjustment(self.key, self.quota, delta, acquired_at_us, self.units, self.lease)
