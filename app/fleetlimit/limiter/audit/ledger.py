"""Ledgers: overshoot (units admitted above a limit), computed from admission counts alone.

Store time is divided into intervals. Only the sum of the units admitted in each interval is known.
Whole intervals are therefore compared with the most that a limit permits in them, and a bucket that
keeps its limit never shows an overshoot. An overshoot is reported once: the ledger continues as if
it had been permitted.
"""

import zlib
from dataclasses import dataclass, replace
from typing import Final

from fleetlimit.core.quota import SECOND_US, Algorithm, Quota

INTERVAL_US: Final = 5 * SECOND_US
MAX_SUBWINDOWS: Final = 60
"""Most subwindows that the period of a sliding log is divided into."""


@dataclass(slots=True, order=True)
class SampleRank:
    """Rank of a caller in the bottom-k sample: a checksum of its hash, and then the hash."""

    checksum: int
    caller: str


def sample_rank(caller: str) -> SampleRank:
    """Return the rank of a caller: the callers with the smallest ranks are audited everywhere."""
    # A checksum, because the first component of a compound key may be the same for many callers.
    return SampleRank(zlib.crc32(caller.encode()), caller)


def interval_us(quota: Quota) -> int:
    """Return the length of a limit's intervals, in microseconds.

    It is 5 s if windows consist of whole intervals then. Otherwise it is the first multiple of the
    window of at least 5 s, and intervals consist of whole windows.
    """
    period_us = quota.period_us
    if quota.algorithm is Algorithm.TOKEN_BUCKET or period_us % INTERVAL_US == 0:
        return INTERVAL_US
    return period_us * -(-INTERVAL_US // period_us)


def creditable_refund(
    quota: Quota, units: int, store_acquired_at_us: int, store_refunded_at_us: int
) -> int:
    """Return how many refunded units other requests can spend.

    Args:
        quota: The quota.
        units: Refunded units.
        store_acquired_at_us: Store time at which the units were spent.
        store_refunded_at_us: Store time of the refund.
    """
    period_us = quota.period_us
    match quota.algorithm:
        case Algorithm.TOKEN_BUCKET:
            return units
        case Algorithm.SLIDING_LOG:
            return units if store_refunded_at_us - store_acquired_at_us < period_us else 0
        case _ if quota.calendar is not None:
            start_us, end_us = quota.calendar.window_at(store_acquired_at_us)
            return units if start_us <= store_refunded_at_us < end_us else 0
        case _:
            refunded_in = store_refunded_at_us // period_us
            return units if refunded_in == store_acquired_at_us // period_us else 0


@dataclass(frozen=True, slots=True)
class BacklogLedger:
    """Ledger of a token bucket: the backlog of a queue that is served at the limit's rate.

    At most `burst + rate * time` units pass in every interval if and only if the backlog never
    exceeds the burst (Cruz, "A Calculus for Network Delay", part I, IEEE Trans. Information Theory
    37(1), 1991). The backlog follows Lindley's recursion: max(0, backlog + units - service).

    Args:
        quota: The quota.
        ticks: Backlog in ticks, `period_us` of them to the unit, as in the bucket itself.
    """

    quota: Quota
    ticks: int

    def permitted(self, _interval: int) -> float:
        """Return the units that the limit adds in an interval."""
        return INTERVAL_US * self.quota.limit / self.quota.period_us

    def close(self, _interval: int, units: int) -> tuple["BacklogLedger", int]:
        """Return the ledger after the next interval, and the overshoot in it."""
        unit = self.quota.period_us
        ticks = max(0, self.ticks + units * unit - INTERVAL_US * self.quota.limit)
        # A fraction of a unit stays in the backlog, so that many small excesses add up.
        overshoot = max(0, ticks - self.quota.burst * unit) // unit
        return replace(self, ticks=ticks - overshoot * unit), overshoot


@dataclass(frozen=True, slots=True)
class WindowLedger:
    """Ledger of a window: the sum of the last subwindows, which are one window together.

    A fixed and a sliding window permit their limit in each aligned window, which is one subwindow.
    A log permits its limit in any interval of one period, which is divided into as many subwindows
    as possible.

    Args:
        quota: The quota.
        sums: Index of each subwindow since the epoch and the units in it, oldest first.
    """

    quota: Quota
    sums: tuple[tuple[int, int], ...]

    def permitted(self, interval: int) -> float:
        """Return the units that the limit adds in an interval."""
        is_new = self.sums[-1][0] < _subwindow_of(self.quota, interval)
        return _window_allowance(self.quota) / _subwindow_count(self.quota) if is_new else 0

    def close(self, interval: int, units: int) -> tuple["WindowLedger", int]:
        """Return the ledger after the next interval, and the overshoot in it."""
        current = _subwindow_of(self.quota, interval)
        oldest = current - _subwindow_count(self.quota)
        sums = {index: count for index, count in self.sums if index > oldest}
        sums[current] = sums.get(current, 0) + units
        overshoot = max(0, sum(sums.values()) - _window_allowance(self.quota))
        sums[current] -= overshoot
        return replace(self, sums=tuple(sums.items())), overshoot


Ledger = BacklogLedger | WindowLedger


def open_ledger(quota: Quota, interval: int, spent_before: int) -> Ledger:
    """Return the ledger of a bucket that starts with an interval.

    Args:
        quota: The quota.
        interval: First interval that is counted.
        spent_before: Units spent in the bucket before the first admission of this interval.
    """
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        # The bucket rounds up to whole units. The error is below one unit, which is no overshoot.
        return BacklogLedger(quota, min(quota.burst, spent_before) * quota.period_us)
    return WindowLedger(
        quota, ((_subwindow_of(quota, interval), _initial_count(quota, spent_before)),)
    )


def initial_allowance(quota: Quota, spent_before: int) -> int:
    """Return the units that a ledger permits at once when it is opened."""
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        return max(0, quota.burst - spent_before)
    return _window_allowance(quota) - _initial_count(quota, spent_before)


def _initial_count(quota: Quota, spent_before: int) -> int:
    """Return the units of the open window; only a fixed window's status contains them."""
    return min(quota.limit, spent_before) if quota.algorithm is Algorithm.FIXED_WINDOW else 0


def _window_allowance(quota: Quota) -> int:
    """Return the units permitted in a window, or in the windows of one interval."""
    return quota.limit * max(1, interval_us(quota) // quota.period_us)


def _subwindow_count(quota: Quota) -> int:
    """Return how many subwindows a window is divided into."""
    if quota.algorithm is not Algorithm.SLIDING_LOG:
        return 1
    intervals = max(1, quota.period_us // interval_us(quota))
    most = min(MAX_SUBWINDOWS, intervals)
    return next(count for count in range(most, 0, -1) if intervals % count == 0)


def _subwindow_of(quota: Quota, interval: int) -> int:
    """Return the index of the subwindow that contains an interval.

    Of a calendar it is the window's start in seconds, which grows with the windows as well.
    """
    length_us = interval_us(quota)
    if quota.calendar is not None:
        return quota.calendar.window_at(interval * length_us)[0] // SECOND_US
    return interval * length_us // (max(quota.period_us, length_us) // _subwindow_count(quota))
