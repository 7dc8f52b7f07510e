"""Charges and adjustments as arguments of the scripts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.quota import Quota
from fleetlimit.stores.redis.calendar_windows import WIRE_NAME, CalendarWindows

_MAX_CACHED_CHARGES: Final = 4_096


def encode_charges(
    charges: Sequence[Charge], windows: CalendarWindows, *, dry_run: bool
) -> tuple[list[str], list[Any], bool]:
    """Return the keys and the encoded charges of one check, and whether one has a calendar.

    `acquire.lua` has the format.

    Args:
        charges: The charges.
        windows: Windows of the calendars.
        dry_run: Whether the check spends nothing.
    """
    begin = "0" if dry_run else "1"
    keys: list[str] = []
    encoded: list[Any] = []
    has_calendar = False
    for charge in charges:
        option, quota = charge.option, charge.quota
        # Without an option, the encoding is the same for all callers.
        encode = _encode_charge if option else _encode_cached
        if quota.calendar is not None:
            has_calendar, option = True, windows.encode(quota.calendar)
        keys.append(charge.key)
        encoded.append(encode(begin, quota, charge.units, charge.group, option))
        begin = "+"
    return keys, encoded, has_calendar


def _encode_charge(begin: str, quota: Quota, units: int, group: int, option: str) -> bytes:
    figures = (quota.limit, quota.period_us, quota.burst, units, group)
    return " ".join(map(str, (begin, _algorithm_of(quota), *figures, option))).encode()


_encode_cached = lru_cache(_MAX_CACHED_CHARGES)(_encode_charge)


def encode_adjustments(adjustments: Sequence[Adjustment], windows: CalendarWindows) -> list[Any]:
    """Return the arguments of adjustments; `adjust.lua` has the format."""
    args: list[Any] = []
    for each in adjustments:
        quota, lease = each.quota, each.lease
        if quota.calendar is not None:
            lease = windows.encode(quota.calendar)
        args += (_algorithm_of(quota), quota.limit, quota.period_us, quota.burst)
        args += (each.delta, each.store_acquired_at_us, each.units, lease)
    return args


def _algorithm_of(quota: Quota) -> str:
    """Return the name of a quota's algorithm in the scripts."""
    return quota.algorithm.value if quota.calendar is None else WIRE_NAME
