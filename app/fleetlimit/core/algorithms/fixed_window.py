"""Fixed window: a counter that starts again at each multiple of the period since the epoch.

At most `limit` units pass in a window, and so up to twice the limit in an interval of one period
that straddles the boundary of two windows.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Window:
    """The number of a window since the epoch and the units spent in it."""

    index: int
    count: int


def _current(quota: Quota, state: Window | None, now_us: int) -> Window:
    index = now_us // quota.period_us
    # A clock that went back stays in the later window: it must not open an earlier one again.
    return state if state is not None and state.index >= index else Window(index, 0)


def take(
    quota: Quota, state: Window | None, now_us: int, units: int, _lease: str
) -> tuple[BucketStatus, Window | None]:
    """Spend units if the window has them left."""
    window = _current(quota, state, now_us)
    fits = window.count + units <= quota.limit
    if fits:
        window = Window(window.index, window.count + units)
    rest_us = (window.index + 1) * quota.period_us - now_us
    back_us = rest_us if window.count else 0
    verdict = BucketStatus(
        allowed=fits,
        remaining=max(0, quota.limit - window.count),
        retry_after_us=0 if fits else rest_us,
        next_unit_after_us=back_us,
        reset_after_us=back_us,
    )
    return verdict, window if window.count else None


def settle(
    quota: Quota, state: Window | None, now_us: int, adjustment: Adjustment
) -> Window | None:
    """Give back to, or spend in, the window that the units were spent in, if it is still open."""
    window = _current(quota, state, now_us)
    if adjustment.delta < 0 and adjustment.acquired_at_us // quota.period_us != window.index:
        return window if window.count else None
    count = max(0, window.count + adjustment.delta)
    return Window(window.index, count) if count else None


def expires_us(quota: Quota, state: Window | None) -> int | None:
    """Return the end of the window."""
    return None if state is None else (state.index + 1) * quota.period_us
