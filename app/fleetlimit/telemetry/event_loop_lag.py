"""Event-loop lag: how late the loop runs a timer, and so every other callback that is due."""

import asyncio
from collections.abc import Callable
from typing import Final

from fleetlimit.core.quota import MILLISECOND_US, SECOND_US
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.ports import Clock, Sleep

INTERVAL_US: Final = 100 * MILLISECOND_US
"""Sampling interval. Stalls longer than this are always seen and under-reported by at most 100 ms;
a stall of 50 ms (the default store timeout) is seen half of the time."""


class EventLoopLagMonitor:
    """Measures the lag once per interval.

    Args:
        on_lag: Called once per interval with the lag in seconds; 0 for a timer that was early.
        clock: Monotonic clock of the process.
        sleep: Pause on a timer of the event loop.
    """

    def __init__(
        self, on_lag: Callable[[float], None], clock: Clock, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._on_lag = on_lag
        self._clock = clock
        self._sleep = sleep
        self._mono_due_at_us = 0
        self._task = PeriodicTask(
            self._measure,
            INTERVAL_US / SECOND_US,
            failure_event="background.failed",
            sleep=self._pause,
        )

    @property
    def running(self) -> bool:
        """Whether the lag is measured."""
        return self._task.running

    def start(self) -> None:
        """Start to measure."""
        self._task.start()

    async def stop(self) -> None:
        """Stop measuring."""
        await self._task.stop()

    async def _pause(self, seconds: float) -> None:
        self._mono_due_at_us = self._clock.monotonic_us() + INTERVAL_US
        await self._sleep(seconds)

    async def _measure(self) -> None:
        late_us = self._clock.monotonic_us() - self._mono_due_at_us
        self._on_lag(max(0, late_us) / SECOND_US)
