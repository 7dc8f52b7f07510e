"""What was let in beyond a limit, told from what replicas let in and from nothing else.

The store's clock is cut into slots. Of each slot only the sum of units let in is known, so whole
slots are compared with the most that the limit permits in them: a bucket that keeps its limit never
reads above 0. What is beyond is told once; then the ledger goes on as if it had been permitted.
"""

import zlib
from dataclasses import dataclass, replace

from fleetlimit.core.quota import SECOND_US, Algorithm, Quota

SampleRank = tuple[int, str]
"""The place of a caller among all, and its hashes."""
INTERVAL_US = 5 * SECOND_US
MAX_SUBWINDOWS = 60
"""Parts of a sliding log's period that are summed apart, at most."""


def sample_rank(caller: str) -> SampleRank:
    """Return the place of a caller's hashes among all: the smallest are audited, everywhere."""
    # Not the hashes themselves: of a key of several parts the first may be the same for many.
    return zlib.crc32(caller.encode()), caller


def interval_us(quota: Quota) -> int:
    """Return the length of a limit's slots, so that windows are whole slots or slots whole windows.

    Returns:
        5 s in microseconds; for windows of which 5 s are no part, their first multiple from 5 s on.
    """
    period = quota.period_us
    if quota.algorithm is Algorithm.TOKEN_BUCKET or period % INTERVAL_US == 0:
        return INTERVAL_US
    return period * -(-INTERVAL_US // period)


def creditable_refund(quota: Quota, units: int, acquired_at_us: int, refunded_at_us: int) -> int:
    """Return how many of the units that were given back at a time make room for others.

    Args:
        quota: The limit.
        units: What was given back.
        acquired_at_us: When it had been spent, on the store's clock.
        refunded_at_us: When it was given back, on the same clock.
    """
    period = quota.period_us
    match quota.algorithm:
        case Algorithm.TOKEN_BUCKET:
            return units
        case Algorithm.SLIDING_LOG:
            return units if refunded_at_us - acquired_at_us < period else 0
        case _:
            return units if refunded_at_us // period == acquired_at_us // period else 0


@dataclass(frozen=True, slots=True)
class BacklogLedger:
    """A token bucket: the backlog of a queue that is served at the limit's rate.

    In every interval at most `burst + rate * time` units pass if and only if the backlog never
    exceeds the burst (Cruz, "A Calculus for Network Delay", part I, IEEE Trans. Information Theory
    37(1), 1991). It follows Lindley's recursion: max(0, backlog + units - service).

    Args:
        quota: The limit.
        ticks: The backlog in ticks, `period_us` of them to the unit, as the bucket counts its debt.
    """

    quota: Quota
    ticks: int

    def permitted(self, _interval: int) -> float:
        """Return the units that a slot adds to what may be let in."""
        return INTERVAL_US * self.quota.limit / self.quota.period_us

    def close(self, _interval: int, units: int) -> tuple["BacklogLedger", int]:
        """Return the ledger after the next slot, and the units that were beyond the limit in it."""
        unit = self.quota.period_us
        ticks = max(0, self.ticks + units * unit - INTERVAL_US * self.quota.limit)
        # Less than a unit is carried on: many small excesses must not read as none.
        beyond = max(0, ticks - self.quota.burst * unit) // unit
        return replace(self, ticks=ticks - beyond * unit), beyond


@dataclass(frozen=True, slots=True)
class WindowLedger:
    """Windows: the sum of the last cells, which are as long as a window together.

    A fixed and a sliding window permit their limit in each aligned window, which is one cell. A log
    permits its limit in any interval of one period, which is as many cells as it can be cut into.

    Args:
        quota: The limit.
        sums: Number of each cell since the epoch, and the units in it, oldest first.
    """

    quota: Quota
    sums: tuple[tuple[int, int], ...]

    def permitted(self, interval: int) -> float:
        """Return the units that a slot adds to what may be let in."""
        new = self.sums[-1][0] < _subwindow_of(self.quota, interval)
        return _window_allowance(self.quota) / _subwindow_count(self.quota) if new else 0

    def close(self, interval: int, units: int) -> tuple["WindowLedger", int]:
        """Return the ledger after the next slot, and the units that were beyond the limit in it."""
        cell = _subwindow_of(self.quota, interval)
        sums = {at: sum_ for at, sum_ in self.sums if at > cell - _subwindow_count(self.quota)}
        sums[cell] = sums.get(cell, 0) + units
        beyond = max(0, sum(sums.values()) - _window_allowance(self.quota))
        sums[cell] -= beyond
        return replace(self, sums=tuple(sums.items())), beyond


Ledger = BacklogLedger | WindowLedger


def open_ledger(quota: Quota, interval: int, spent_before: int) -> Ledger:
    """Return the ledger of a bucket from the begin of a slot on.

    Args:
        quota: The limit.
        interval: The first slot that is counted.
        spent_before: Units spent in the bucket before the first ones of this interval.
    """
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        # The account rounds up to whole units: by less than one, and less is never beyond.
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
    """Return what the account says of the open window: only a fixed window's is that very sum."""
    return min(quota.limit, spent_before) if quota.algorithm is Algorithm.FIXED_WINDOW else 0


def _window_allowance(quota: Quota) -> int:
    """Return the units permitted in a window, or in the windows of one slot."""
    return quota.limit * max(1, interval_us(quota) // quota.period_us)


def _subwindow_count(quota: Quota) -> int:
    """Return into how many cells a window is cut."""
    if quota.algorithm is not Algorithm.SLIDING_LOG:
        return 1
    slots = max(1, quota.period_us // interval_us(quota))
    return next(count for count in range(min(MAX_SUBWINDOWS, slots), 0, -1) if slots % count == 0)


def _subwindow_of(quota: Quota, interval: int) -> int:
    """Return the number of the cell that a slot is in."""
    length = interval_us(quota)
    return interval * length // (max(quota.period_us, length) // _subwindow_count(quota))
