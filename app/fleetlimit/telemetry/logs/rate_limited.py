"""Lets the first few of each kind through in a window, and says how many more there were."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.ports import Clock

FIRST = 5
WINDOW_US = 10 * SECOND_US
CAPACITY = 1000

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Window:
    ends_us: int
    seen: int = 0


class Sampler(Generic[K]):
    """Decides which of many equal things are worth a line; nothing is lost from the count.

    Args:
        clock: The process's own time.
        summarise: Told a key and how many of it were held back, once for each window that held
            any back, after the window ended.
        overflow: The key that is counted in place of new ones while the table is full.
        first: How many of a key are let through in a window.
        window_us: Length of a window in microseconds; it starts with the first of its key.
        capacity: Keys kept at the same time; the overflow is one more.
    """

    def __init__(
        self,
        clock: Clock,
        summarise: Callable[[K, int], None],
        *,
        overflow: K,
        first: int = FIRST,
        window_us: int = WINDOW_US,
        capacity: int = CAPACITY,
    ) -> None:
        self._clock = clock
        self._summarise = summarise
        self._overflow = overflow
        self._first = first
        self._window_us = window_us
        self._capacity = capacity
        # All windows have one length, so the order of insertion is the order in which they end.
        self._windows: dict[K, _Window] = {}
        self._first_end_us = 0

    def admit(self, key: K) -> bool:
        """Count one of this key.

        Returns:
            Whether to let it through; if not, it will be in a summary.
        """
        now_us = self._clock.now_us()
        if now_us >= self._first_end_us:
            self._close_until(now_us)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._capacity:
                key = self._overflow
            window = self._windows.setdefault(key, _Window(now_us + self._window_us))
        window.seen += 1
        return window.seen <= self._first

    def flush(self) -> bool:
        """Summarise the windows that have ended, and return whether any has not."""
        if self._windows:
            self._close_until(self._clock.now_us())
        return bool(self._windows)

    def close(self) -> None:
        """Summarise every window now."""
        while self._windows:
            self._close_oldest()

    def _close_until(self, now_us: int) -> None:
        while self._windows:
            self._first_end_us = next(iter(self._windows.values())).ends_us
            if self._first_end_us > now_us:
                return
            self._close_oldest()
        # Whatever begins from now on ends no sooner.
        self._first_end_us = now_us + self._window_us

    def _close_oldest(self) -> None:
        key = next(iter(self._windows))
        held_back = self._windows.pop(key).seen - self._first
        if held_back > 0:
            self._summarise(key, held_back)
