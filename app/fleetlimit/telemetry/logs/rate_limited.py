"""Lets the first few of each kind through in a window, and says how many more there were."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.ports import Clock

LINES_PER_WINDOW = 5
WINDOW_US = 10 * SECOND_US
CAPACITY = 1000

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Window:
    ends_at_us: int
    count: int = 0


class LogSampler(Generic[K]):
    """Decides which of many equal things are worth a line; nothing is lost from the count.

    Args:
        clock: The process's own time.
        on_summary: Told a key and how many of it were held back, once for each window that held
            any back, after the window ended.
        overflow: The key that is counted in place of new ones while the table is full.
        lines_per_window: How many of a key are let through in a window.
        window_us: Length of a window in microseconds; it starts with the first of its key.
        capacity: Keys kept at the same time; the overflow is one more.
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
        # All windows have one length, so the order of insertion is the order in which they end.
        self._windows: dict[K, _Window] = {}
        self._next_end_at_us = 0

    def should_log(self, key: K) -> bool:
        """Count one of this key.

        Returns:
            Whether to let it through; if not, it will be in a summary.
        """
        now_us = self._clock.monotonic_us()
        if now_us >= self._next_end_at_us:
            self._close_until(now_us)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._capacity:
                key = self._overflow
            window = self._windows.setdefault(key, _Window(now_us + self._window_us))
        window.count += 1
        return window.count <= self._lines_per_window

    def flush(self) -> bool:
        """Summarise the windows that have ended, and return whether any has not."""
        if self._windows:
            self._close_until(self._clock.monotonic_us())
        return bool(self._windows)

    def close(self) -> None:
        """Summarise every window now."""
        while self._windows:
            self._close_oldest()

    def _close_until(self, now_us: int) -> None:
        while self._windows:
            self._next_end_at_us = next(iter(self._windows.values())).ends_at_us
            if self._next_end_at_us > now_us:
                return
            self._close_oldest()
        # Whatever begins from now on ends no sooner.
        self._next_end_at_us = now_us + self._window_us

    def _close_oldest(self) -> None:
        key = next(iter(self._windows))
        suppressed = self._windows.pop(key).count - self._lines_per_window
        if suppressed > 0:
            self._on_summary(key, suppressed)
