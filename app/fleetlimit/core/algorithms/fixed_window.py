"""Fixed window: a counter that restarts at each multiple of the period since the epoch.

The windows of a quota with a calendar are its days, weeks, months or years. At most `limit` units
are admitted in a window, and up to twice the limit in an interval of one period that spans the
boundary of two windows.

The state has the start and the end of its window. A window that has begun therefore keeps its end
after a reload that changes the time zone or the anchor, so that `Retry-After` stays true; the next
window is one of the new calendar. Replicas with different time zone data agree for the same reason.
"""

from dataclasses import dataclass, replace

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Window:
    """State of a window in which units were spent.

    Args:
        store_start_at_us: Store time at which it began.
        store_end_at_us: Store time at which it ends.
        count: Units spent in it.
        store_born_at_us: Store time of the first charge in it.
    """

    store_start_at_us: int
    store_end_at_us: int
    count: int
    store_born_at_us: int


def _window_at(quota: Quota, at_us: int) -> tuple[int, int]:
    """Return start and end of the window of an instant."""
    if quota.calendar is not None:
        return quota.calendar.window_at(at_us)
    start_us = at_us - at_us % quota.period_us
    return start_us, start_us + quota.period_us


def _current(quota: Quota, state: Window | None, now_us: int) -> Window:
    # After a step back of the clock the later window stays current: an earlier one is never
    # reopened.
    if state is not None and state.store_end_at_us > now_us:
        return state
    start_us, end_us = _window_at(quota, now_us)
    return Window(start_us, end_us, 0, now_us)


def bounded(quota: Quota, state: Window, now_us: int) -> Window:
    """Return the state with a window that is current or the next one, also after a step back."""
    if state.store_start_at_us <= now_us:
        return state
    _, end_us = _window_at(quota, now_us)
    if state.store_start_at_us <= end_us:
        return state
    start_us, end_us = _window_at(quota, end_us)
    return replace(state, store_start_at_us=start_us, store_end_at_us=end_us)


def acquire(
    quota: Quota, state: Window | None, now_us: int, units: int, _option: str
) -> tuple[BucketStatus, Window | None]:
    """Spend units if the window has them left."""
    window = _current(quota, state, now_us)
    allowed = window.count + units <= quota.limit
    if allowed:
        window = _with_count(window, window.count + units)
    window_left_us = window.store_end_at_us - now_us
    reset_after_us = window_left_us if window.count else 0
    status = BucketStatus(
        allowed=allowed,
        remaining=max(0, quota.limit - window.count),
        retry_after_us=0 if allowed else window_left_us,
        next_unit_after_us=reset_after_us,
        reset_after_us=reset_after_us,
    )
    return status, window if window.count else None


def _with_count(window: Window, count: int) -> Window:
    return Window(window.store_start_at_us, window.store_end_at_us, count, window.store_born_at_us)


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
    acquired_at_us = adjustment.store_acquired_at_us
    if delta > 0:
        count = max(count, min(count + delta, 2 * quota.limit))
    elif (
        window.store_start_at_us <= acquired_at_us < window.store_end_at_us
        and acquired_at_us >= window.store_born_at_us
    ):
        count = max(0, count + delta)
    return _with_count(window, count) if count else None


def expires_at_us(_quota: Quota, state: Window | None) -> int | None:
    """Return the end of the window."""
    return None if state is None else state.store_end_at_us
