"""Sliding window counter: the current window's count plus a weighted part of the previous one.

The estimate is `current + ceil(previous * overlap / period)`. `overlap` is the part of the previous
window that the sliding one still covers, rounded up to a millisecond. The estimate assumes that the
units of the previous window were spread evenly. If they were not, up to almost twice the limit is
admitted in an interval of one period. Each aligned window keeps the limit.
"""

from dataclasses import dataclass, replace

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import MILLISECOND_US, Quota


@dataclass(frozen=True, slots=True)
class Windows:
    """State of two windows.

    Args:
        index: Index of the current window since the epoch.
        current: Units spent in it.
        previous: Units spent in the window before.
        store_born_at_us: Store time of the first charge since both counters were 0.
    """

    index: int
    current: int
    previous: int
    store_born_at_us: int


def _current(quota: Quota, state: Windows | None, now_us: int) -> Windows:
    index = now_us // quota.period_us
    if state is None:
        return Windows(index, 0, 0, now_us)
    if state.index >= index:
        return state
    if state.index < index - 1 or not state.current:
        return Windows(index, 0, 0, now_us)
    return Windows(index, 0, state.current, state.store_born_at_us)


def _wait_us(quota: Quota, windows: Windows, now_us: int, free: int) -> int:
    """Return the microseconds until at least `free` units are available."""
    period_ms = quota.period_us // MILLISECOND_US
    end_us = (windows.index + 1) * quota.period_us
    permitted = quota.limit - free
    if windows.current <= permitted:
        # The weight of the previous window must decrease until its part fits beside the current.
        fading, spare = windows.previous, permitted - windows.current
    else:
        # The current window must first become the previous one; then its weight must decrease.
        fading, spare, end_us = windows.current, permitted, end_us + quota.period_us
    overlap_ms = period_ms if fading == 0 else min(period_ms, spare * period_ms // fading)
    return max(0, end_us - overlap_ms * MILLISECOND_US - now_us)


def _used(quota: Quota, windows: Windows, now_us: int) -> int:
    period_ms = quota.period_us // MILLISECOND_US
    overlap_us = (windows.index + 1) * quota.period_us - now_us
    # After a step back of the clock the previous window weighs 1 and not more.
    overlap_ms = min(period_ms, -(-overlap_us // MILLISECOND_US))
    return windows.current + -(-windows.previous * overlap_ms // period_ms)


def bounded(quota: Quota, state: Windows, now_us: int) -> Windows:
    """Return the state with a window that is current or the next one, also after a step back."""
    latest = now_us // quota.period_us + 1
    return state if state.index <= latest else replace(state, index=latest)


def acquire(
    quota: Quota, state: Windows | None, now_us: int, units: int, _option: str
) -> tuple[BucketStatus, Windows | None]:
    """Spend units if the weighted count permits them."""
    windows = _current(quota, state, now_us)
    allowed = _used(quota, windows, now_us) + units <= quota.limit
    retry_after_us = 0 if allowed else _wait_us(quota, windows, now_us, units)
    if allowed:
        current, previous = windows.current + units, windows.previous
        windows = Windows(windows.index, current, previous, windows.store_born_at_us)
    used = _used(quota, windows, now_us)
    remaining = max(0, quota.limit - used)
    status = BucketStatus(
        allowed=allowed,
        remaining=remaining,
        retry_after_us=retry_after_us,
        next_unit_after_us=_wait_us(quota, windows, now_us, remaining + 1) if used else 0,
        reset_after_us=_wait_us(quota, windows, now_us, quota.limit) if used else 0,
    )
    return status, _non_empty(windows)


def adjust(
    quota: Quota, state: Windows | None, now_us: int, adjustment: Adjustment
) -> Windows | None:
    """Spend units in the current window, or refund them in the window that they were spent in.

    Nothing is refunded to a bucket that is younger than the charge, because it was reset or lost in
    between: its counters do not include the charge. Units spent without a check make at most twice
    the limit.
    """
    windows = _current(quota, state, now_us)
    current, previous = windows.current, windows.previous
    spent_in = adjustment.store_acquired_at_us // quota.period_us
    if adjustment.delta > 0:
        current = max(current, min(current + adjustment.delta, 2 * quota.limit))
    elif adjustment.store_acquired_at_us < windows.store_born_at_us:
        pass
    elif spent_in == windows.index:
        current = max(0, current + adjustment.delta)
    elif spent_in == windows.index - 1:
        previous = max(0, previous + adjustment.delta)
    return _non_empty(Windows(windows.index, current, previous, windows.store_born_at_us))


def _non_empty(windows: Windows) -> Windows | None:
    return windows if windows.current or windows.previous else None


def expires_at_us(quota: Quota, state: Windows | None) -> int | None:
    """Return the end of the last window in which the counters have a weight."""
    if state is None:
        return None
    return (state.index + (2 if state.current else 1)) * quota.period_us
