"""Concurrency limit: at most `limit` units held at the same time, each by a lease.

A lease ends when it is released, or `period_us` after its last renewal. The units of a replica that
died are therefore free again after one period.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class HeldUnit:
    """A unit that a lease holds.

    Args:
        store_expires_at_us: Store time at which the unit expires unless renewed.
        name: Name of the lease, and the number of the unit in it.
    """

    store_expires_at_us: int
    name: str


@dataclass(frozen=True, slots=True)
class Leases:
    """Held units, ordered by expiry and then by name."""

    held: tuple[HeldUnit, ...]


# As the order of the class, comparisons would take most of the time of a sort.
_ORDER: Final = attrgetter("store_expires_at_us", "name")
_EXPIRY: Final = attrgetter("store_expires_at_us")


def _unexpired(state: Leases | None, now_us: int) -> tuple[HeldUnit, ...]:
    if state is None:
        return ()
    return state.held[bisect_right(state.held, now_us, key=_EXPIRY) :]


def _with_units(held: Sequence[HeldUnit], added: list[HeldUnit]) -> tuple[HeldUnit, ...]:
    """Return ordered units together with others of any order."""
    added = sorted(added, key=_ORDER)
    if not held or not added or _ORDER(held[-1]) < _ORDER(added[0]):
        # Nearly always, because a new unit expires last.
        return (*held, *added)
    return tuple(sorted([*held, *added], key=_ORDER))


def _units(lease: str, units: int, store_expires_at_us: int) -> list[HeldUnit]:
    return [HeldUnit(store_expires_at_us, f"{lease}:{unit}") for unit in range(1, units + 1)]


def bounded(_quota: Quota, state: Leases, _now_us: int) -> Leases:
    """Return the state: leases that are in use are renewed, also after a step back of the clock."""
    return state


def acquire(
    quota: Quota, state: Leases | None, now_us: int, units: int, lease: str
) -> tuple[BucketStatus, Leases | None]:
    """Hold units under a lease if that many are free."""
    held = _unexpired(state, now_us)
    missing = len(held) + units - quota.limit
    allowed = missing <= 0
    if allowed:
        held = _with_units(held, _units(lease, units, now_us + quota.period_us))
    # After the limit was lowered, units above it must expire before one is free.
    excess = max(0, len(held) - quota.limit)
    status = BucketStatus(
        allowed=allowed,
        remaining=max(0, quota.limit - len(held)),
        retry_after_us=0 if allowed else held[missing - 1].store_expires_at_us - now_us,
        next_unit_after_us=held[excess].store_expires_at_us - now_us if held else 0,
        reset_after_us=held[-1].store_expires_at_us - now_us if held else 0,
    )
    return status, Leases(held) if held else None


def adjust(
    quota: Quota, state: Leases | None, now_us: int, adjustment: Adjustment
) -> Leases | None:
    """Release units of a lease, or hold more under it; the units that stay held are renewed."""
    most = max(adjustment.units, 2 * quota.limit)
    units = max(0, min(adjustment.units + adjustment.delta, most))
    return renew(quota, state, now_us, {adjustment.lease: units})


def renew(
    quota: Quota, state: Leases | None, now_us: int, units_by_lease: Mapping[str, int]
) -> Leases | None:
    """Hold these numbers of units under their leases for a period from now on.

    Units in use are held even if their lease had expired, which may exceed the limit.
    """
    # Sorted once for all leases: thousands of them one by one would block the event loop.
    others = [
        each
        for each in _unexpired(state, now_us)
        if each.name.rpartition(":")[0] not in units_by_lease
    ]
    renewed: list[HeldUnit] = []
    for lease, units in units_by_lease.items():
        renewed += _units(lease, units, now_us + quota.period_us)
    held = _with_units(others, renewed)
    return Leases(held) if held else None


def expires_at_us(_quota: Quota, state: Leases | None) -> int | None:
    """Return when the last lease expires."""
    return None if state is None else state.held[-1].store_expires_at_us
