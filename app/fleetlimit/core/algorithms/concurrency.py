"""Concurrency: at most `limit` units held at the same time, each by a lease.

A lease ends when it is given back, or `period_us` after its owner last renewed it, so that an
owner that died does not hold its units for ever.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota

Lease = tuple[int, str]
"""When the lease ends unless renewed, in microseconds since the epoch, and its unit's name."""


@dataclass(frozen=True, slots=True)
class Leases:
    """Leases held, one for each unit, soonest to end first, then by name."""

    held: tuple[Lease, ...]


def _unexpired(state: Leases | None, now_us: int) -> tuple[Lease, ...]:
    return tuple(lease for lease in state.held if lease[0] > now_us) if state else ()


def _units(lease: str, first: int, last: int, ends_us: int) -> list[Lease]:
    return [(ends_us, f"{lease}:{unit}") for unit in range(first, last + 1)]


def take(
    quota: Quota, state: Leases | None, now_us: int, units: int, lease: str
) -> tuple[BucketStatus, Leases | None]:
    """Hold units under a lease if that many are free."""
    held = _unexpired(state, now_us)
    missing = len(held) + units - quota.limit
    fits = missing <= 0
    if fits:
        held = tuple(sorted([*held, *_units(lease, 1, units, now_us + quota.period_us)]))
    # What is held beyond the limit, after the limit was lowered, must end before a unit is free.
    over = max(0, len(held) - quota.limit)
    verdict = BucketStatus(
        allowed=fits,
        remaining=max(0, quota.limit - len(held)),
        retry_after_us=0 if fits else held[missing - 1][0] - now_us,
        next_unit_after_us=held[over][0] - now_us if held else 0,
        reset_after_us=held[-1][0] - now_us if held else 0,
    )
    return verdict, Leases(held) if held else None


def settle(
    quota: Quota, state: Leases | None, now_us: int, adjustment: Adjustment
) -> Leases | None:
    """Give units of a lease back, hold more under it, or with a delta of 0 renew it."""
    kept = max(0, adjustment.units + adjustment.delta)
    prefix = f"{adjustment.lease}:"
    others = [lease for lease in _unexpired(state, now_us) if not lease[1].startswith(prefix)]
    # Units still in use are held even where the lease had lapsed: the truth is over the limit then.
    ours = _units(adjustment.lease, 1, kept, now_us + quota.period_us)
    held = tuple(sorted([*others, *ours]))
    return Leases(held) if held else None


def expires_us(_quota: Quota, state: Leases | None) -> int | None:
    """Return when the last lease ends."""
    return None if state is None else state.held[-1][0]
