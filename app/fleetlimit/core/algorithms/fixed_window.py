"""Fixed window: a counter that restarts at each multiple of the period since the epoch.

At most `limit` units are admitted in a window, and up to twice the limit in an interval of one
period that spans the boundary of two windows.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Window:
    """Index of a window since the epoch, and the units spent in it."""

    index: int
    count: int


def _current(quota: Quota, state: Window | None, now_us: int) -> Window:
    index = now_us // quota.period_us
    # After a step back of the clock the later window stays current: an earlier one is never
    # reopened.
    return state if state is not None and state.index >= index else Window(index, 0)


def bounded(quota: Quota, state: Window, now_us: int) -> Window:
    """Return the state with a window that is current or the next one, also after a step back."""
    latest = now_us // quota.period_us + 1
    return state if state.index <= latest else Window(latest, state.count)


def acquire(
    quota: Quota, state: Window | None, now_us: int, units: int, _lease: str
) -> tuple[BucketStatus, Window | None]:
    """Spend units if the window has them left."""
    window = _current(quota, state, now_us)
    allowed = window.count + units <= quota.limit
    if allowed:
        window = Window(window.index, window.count + units)
    window_left_us = (window.index + 1) * quota.period_us - now_us
    reset_after_us = window_left_us if window.count else 0
    status = BucketStatus(
        allowed=allowed,
        remaining=max(0, quota.limit - window.count),
        retry_after_us=0 if allowed else window_left_us,
        next_unit_after_us=reset_after_us,
        reset_after_us=reset_after_us,
    )
    return status, window if window.count else None


def adjust(
    quota: Quota, state: Window | None, now_us: int, adjustment: Adjustment
) -> Window | None:
    """Spend units in the current window, or refund them if they were spent in it.

    Units spent without a check make at most twice the limit.
    """
    window = _current(quota, state, now_us)
    count, delta = window.count, adjustment.delta
    if delta > 0:
        count = max(count, min(count + delta, 2 * quota.limit))
    elif adjustment.store_acquired_at_us // quota.period_us == window.index:
        count = max(0, count + delta)
    return Window(window.index, count) if count else None


def expires_at_us(quota: Quota, state: Window | None) -> int | None:
    """Return the end of the window."""
    return None if state is None else (state.index + 1) * quota.period_us
