"""Event-loop lag: how late the loop runs a timer, and so every other callback that is due."""

import asyncio
from collections.abc import Callable

from fleetlimit.core.quota import MILLISECOND_US, SECOND_US
from fleetlimit.limiter.ports import Clock, Sleep

INTERVAL_US = 100 * MILLISECOND_US
"""Sampling interval. Stalls longer than this are always seen and under-reported by at most 100 ms;
a stall of 50 ms (the default store timeout) is seen half of the time."""


async def monitor_event_loop_lag(
    on_lag: Callable[[float], None], clock: Clock, *, sleep: Sleep = asyncio.sleep
) -> None:
    """Measure the lag once per interval, until cancelled.

    Args:
        on_lag: Called once per interval with the lag in seconds; 0 for a timer that was early.
        clock: Monotonic clock of the process.
        sleep: Pause on a timer of the event loop.
    """
    while True:
        due_at_us = clock.monotonic_us() + INTERVAL_US
        await sleep(INTERVAL_US / SECOND_US)
        on_lag(max(0, clock.monotonic_us() - due_at_us) / SECOND_US)
