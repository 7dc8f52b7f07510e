"""Sliding window over two counters: the last window's count, weighted by what is left of it.

The estimate is `current + ceil(previous * rest / period)`, with `rest` the part of the last window
that the sliding one still covers, rounded up to a millisecond. It assumes that the last window's
units were spread evenly, so when they were not, an interval of one period can see up to almost
twice the limit; two neighbouring aligned windows never exceed it each.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import MILLISECOND_US, Quota


@dataclass(frozen=True, slots=True)
class Windows:
    """The number of a window since the epoch, the units spent in it, and in the one before."""

    index: int
    current: int
    previous: int


def _current(quota: Quota, state: Windows | None, now_us: int) -> Windows:
    index = now_us // quota.period_us
    if state is None:
        return Windows(index, 0, 0)
    if state.index >= index:
        return state
    return Windows(index, 0, state.current if state.index == index - 1 else 0)


def _wait_us(quota: Quota, windows: Windows, now_us: int, free: int) -> int:
    """Return how long until at least `free` units are available."""
    period_ms = quota.period_us // MILLISECOND_US
    end_us = (windows.index + 1) * quota.period_us
    room = quota.limit - free
    if windows.current <= room:
        # The current window has the room; the previous one must fade to what is left.
        counted, spare = windows.previous, room - windows.current
    else:
        # The current window itself must become the previous one, and then fade.
        counted, spare, end_us = windows.current, room, end_us + quota.period_us
    rest_ms = period_ms if counted == 0 else min(period_ms, spare * period_ms // counted)
    return max(0, end_us - rest_ms * MILLISECOND_US - now_us)


def _used(quota: Quota, windows: Windows, now_us: int) -> int:
    period_ms = quota.period_us // MILLISECOND_US
    rest_us = (windows.index + 1) * quota.period_us - now_us
    # A clock that went back cannot weigh the last window more than whole.
    rest_ms = min(period_ms, -(-rest_us // MILLISECOND_US))
    return windows.current + -(-windows.previous * rest_ms // period_ms)


def take(
    quota: Quota, state: Windows | None, now_us: int, units: int, _lease: str
) -> tuple[BucketStatus, Windows | None]:
    """Spend units if the weighted count leaves room for them."""
    windows = _current(quota, state, now_us)
    fits = _used(quota, windows, now_us) + units <= quota.limit
    retry_us = 0 if fits else _wait_us(quota, windows, now_us, units)
    if fits:
        windows = Windows(windows.index, windows.current + units, windows.previous)
    used = _used(quota, windows, now_us)
    remaining = max(0, quota.limit - used)
    verdict = BucketStatus(
        allowed=fits,
        remaining=remaining,
        retry_after_us=retry_us,
        next_unit_after_us=_wait_us(quota, windows, now_us, remaining + 1) if used else 0,
        reset_after_us=_wait_us(quota, windows, now_us, quota.limit) if used else 0,
    )
    return verdict, _non_empty(windows)


def settle(
    quota: Quota, state: Windows | None, now_us: int, adjustment: Adjustment
) -> Windows | None:
    """Give back to the window that the units were spent in, or spend in the current one."""
    windows = _current(quota, state, now_us)
    current, previous = windows.current, windows.previous
    taken = adjustment.acquired_at_us // quota.period_us
    if adjustment.delta > 0 or taken == windows.index:
        current = max(0, current + adjustment.delta)
    elif taken == windows.index - 1:
        previous = max(0, previous + adjustment.delta)
    return _non_empty(Windows(windows.index, current, previous))


def _non_empty(windows: Windows) -> Windows | None:
    return windows if windows.current or windows.previous else None


def expires_us(quota: Quota, state: Windows | None) -> int | None:
    """Return the end of the last window in which the counters weigh anything."""
    if state is None:
        return None
    return (state.index + (2 if state.current else 1)) * quota.period_us
