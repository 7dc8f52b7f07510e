"""Concurrency limit: at most `limit` units held at the same time, each by a lease.

A lease ends when it is released, or `period_us` after its last renewal. The units of a replica that
died are therefore free again after one period.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota

Lease = tuple[int, str]
"""Store time at which a lease expires unless renewed, in microseconds, and the unit's name."""


@dataclass(frozen=True, slots=True)
class Leases:
    """Leases, one for each held unit, ordered by expiry and then by name."""

    held: tuple[Lease, ...]


def _unexpired(state: Leases | None, now_us: int) -> tuple[Lease, ...]:
    return tuple(lease for lease in state.held if lease[0] > now_us) if state else ()


def _units(lease: str, first: int, last: int, expires_at_us: int) -> list[Lease]:
    return [(expires_at_us, f"{lease}:{unit}") for unit in range(first, last + 1)]


def acquire(
    quota: Quota, state: Leases | None, now_us: int, units: int, lease: str
) -> tuple[BucketStatus, Leases | None]:
    """Hold units under a lease if that many are free."""
    held = _unexpired(state, now_us)
    missing = len(held) + units - quota.limit
    allowed = missing <= 0
    if allowed:
        held = tuple(sorted([*held, *_units(lease, 1, units, now_us + quota.period_us)]))
    # After the limit was lowered, units above it must expire before one is free.
    excess = max(0, len(held) - quota.limit)
    status = BucketStatus(
        allowed=allowed,
        remaining=max(0, quota.limit - len(held)),
        retry_after_us=0 if allowed else held[missing - 1][0] - now_us,
        next_unit_after_us=held[excess][0] - now_us if held else 0,
        reset_after_us=held[-1][0] - now_us if held else 0,
    )
    return status, Leases(held) if held else None


def adjust(
    quota: Quota, state: Leases | None, now_us: int, adjustment: Adjustment
) -> Leases | None:
    """Release units of a lease, or hold more under it; the units that stay held are renewed."""
    units = max(0, adjustment.units + adjustment.delta)
    return renew(quota, state, now_us, units, adjustment.lease)


def renew(quota: Quota, state: Leases | None, now_us: int, units: int, lease: str) -> Leases | None:
    """Hold this number of units under a lease for a period from now on.

    Units in use are held even if their lease had expired, which may exceed the limit.
    """
    others = [each for each in _unexpired(state, now_us) if not each[1].startswith(f"{lease}:")]
    renewed = _units(lease, 1, units, now_us + quota.period_us)
    held = tuple(sorted([*others, *renewed]))
    return Leases(held) if held else None


def expires_at_us(_quota: Quota, state: Leases | None) -> int | None:
    """Return when the last lease expires."""
    return None if state is None else state.held[-1][0]
