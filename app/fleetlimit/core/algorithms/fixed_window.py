"""Fixed window: a counter that restarts at each multiple of the period since the epoch.

At most `limit` units are admitted in a window, and up to twice the limit in an interval of one
period that spans the boundary of two windows.
"""

from dataclasses import dataclass, replace

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Window:
    """State of a window in which units were spent.

    Args:
        index: Index of the window since the epoch.
        count: Units spent in it.
        store_born_at_us: Store time of the first charge in it.
    """

    index: int
    count: int
    store_born_at_us: int


def _current(quota: Quota, state: Window | None, now_us: int) -> Window:
    index = now_us // quota.period_us
    # After a step back of the clock the later window stays current: an earlier one is never
    # reopened.
    if state is not None and state.index >= index:
        return state
    return Window(index, 0, now_us)


def bounded(quota: Quota, state: Window, now_us: int) -> Window:
    """Return the state with a window that is current or the next one, also after a step back."""
    latest = now_us // quota.period_us + 1
    return state if state.index <= latest else replace(state, index=latest)


def acquire(
    quota: Quota, state: Window | None, now_us: int, units: int, _lease: str
) -> tuple[BucketStatus, Window | None]:
    """Spend units if the window has them left."""
    window = _current(quota, state, now_us)
    allowed = window.count + units <= quota.limit
    if allowed:
        window = Window(window.index, window.count + units, window.store_born_at_us)
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

    Nothing is refunded to a window that is younger than the charge, because the bucket was reset or
    lost in between: its count does not include the charge. Units spent without a check make at most
    twice the limit.
    """
    window = _current(quota, state, now_us)
    count, delta = window.count, adjustment.delta
    if delta > 0:
        count = max(count, min(count + delta, 2 * quota.limit))
    elif (
        adjustment.store_acquired_at_us // quota.period_us == window.index
        and adjustment.store_acquired_at_us >= window.store_born_at_us
    ):
        count = max(0, count + delta)
    return Window(window.index, count, window.store_born_at_us) if count else None


def expires_at_us(quota: Quota, state: Window | None) -> int | None:
    """Return the end of the window."""
    return None if state is None else (state.index + 1) * quota.period_us
