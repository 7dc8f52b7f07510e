"""Tick timer: measures how long calls have waited, in time during which the event loop ran."""

import asyncio
from collections.abc import Callable

TICKS = 30
"""Ticks in the timeout. The loop reads arrived replies between two ticks."""
MAX_LATE_TICKS = 3
"""Most ticks that a late one counts for: time in which the event loop did not run (a CPU limit, a
blocking handler) does not count against the store, and the iterations of a busy loop do."""


class TickTimer:
    """Counts ticks while something waits.

    Args:
        timeout_s: Seconds after which something has waited too long.
        on_tick: Called at each tick; returns whether anything still waits.

    Attributes:
        number: Number of the current tick.
    """

    def __init__(self, timeout_s: float, on_tick: Callable[[], bool]) -> None:
        self._timeout_s = timeout_s
        self._on_tick = on_tick
        self.number = 0
        self._is_running = False
        self._ticked_at_s = 0.0

    @property
    def last_late(self) -> int:
        """The last tick at which a wait may have begun that is too long now."""
        # One tick for the fraction before the first one, and one in which the loop read replies.
        return self.number - TICKS - 2

    def start(self) -> None:
        """Count ticks until nothing waits any more."""
        if not self._is_running:
            self._is_running = True
            self._ticked_at_s = asyncio.get_running_loop().time()
            self._schedule()

    def reset(self) -> None:
        """Stop; the event loop has ended, and its timers with it."""
        self._is_running = False

    def tick(self) -> None:
        """Count the time since the last tick."""
        now_s = asyncio.get_running_loop().time()
        passed = (now_s - self._ticked_at_s) * TICKS // self._timeout_s
        self.number += int(min(max(passed, 1), MAX_LATE_TICKS))
        self._ticked_at_s = now_s
        if self._on_tick():
            self._schedule()
        else:
            self._is_running = False

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_later(self._timeout_s / TICKS, self.tick)
