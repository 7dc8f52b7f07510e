"""Rate-limited logging: the first lines of each key in a window, and a summary of the others."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.ports import Clock

LINES_PER_WINDOW = 5
WINDOW_US = 10 * SECOND_US
CAPACITY = 1000
SUPPRESSED: Final = ".suppressed"
"""Suffix of a rate-limited event, for the line with the number of suppressed lines."""
OTHERS: Final = "(others)"
"""Key of events beyond the capacity of a bounded table."""

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Window:
    mono_ends_at_us: int
    count: int = 0


class LogSampler(Generic[K]):
    """Decides which of many equal events get a log line, and counts the suppressed ones exactly.

    Args:
        clock: Monotonic clock of the process.
        on_summary: Called with a key and its number of suppressed lines, once for each window that
            suppressed any, after the window ended.
        overflow: Key counted in place of new keys while the table is full.
        lines_per_window: Lines of a key that are logged in a window.
        window_us: Length of a window in microseconds; it starts with the first event of its key.
        capacity: Maximum number of keys in the table, besides the overflow key.
    """

    def __init__(
        self,
        clock: Clock,
        on_summary: Callable[[K, int], None],
        *,
        overflow: K,
        lines_per_window: int = LINES_PER_WINDOW,
        window_us: int = WINDOW_US,
        capacity: int = CAPACITY,
    ) -> None:
        self._clock = clock
        self._on_summary = on_summary
        self._overflow = overflow
        self._lines_per_window = lines_per_window
        self._window_us = window_us
        self._capacity = capacity
        # All windows have the same length, so insertion order is the order in which they end.
        self._windows: dict[K, _Window] = {}
        self._mono_next_end_at_us = 0

    def should_log(self, key: K) -> bool:
        """Count an event of this key.

        Returns:
            Whether to log it; if not, a summary will include it.
        """
        mono_now_us = self._clock.monotonic_us()
        if mono_now_us >= self._mono_next_end_at_us:
            self._close_until(mono_now_us)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._capacity:
                key = self._overflow
            window = self._windows.setdefault(key, _Window(mono_now_us + self._window_us))
        window.count += 1
        return window.count <= self._lines_per_window

    def flush(self) -> bool:
        """Summarise the windows that have ended, and return whether any is still open."""
        if self._windows:
            self._close_until(self._clock.monotonic_us())
        return bool(self._windows)

    def close(self) -> None:
        """Summarise all windows, open ones included."""
        while self._windows:
            self._close_oldest()

    def _close_until(self, mono_now_us: int) -> None:
        while self._windows:
            self._mono_next_end_at_us = next(iter(self._windows.values())).mono_ends_at_us
            if self._mono_next_end_at_us > mono_now_us:
                return
            self._close_oldest()
        # A window that starts from now on ends no sooner.
        self._mono_next_end_at_us = mono_now_us + self._window_us

    def _close_oldest(self) -> None:
        key = next(iter(self._windows))
        suppressed = self._windows.pop(key).count - self._lines_per_window
        if suppressed > 0:
            self._on_summary(key, suppressed)
