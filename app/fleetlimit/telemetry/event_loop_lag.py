"""Measures how late the event loop runs a timer: so late is all else that waits for its turn."""

import asyncio
from collections.abc import Callable

from fleetlimit.core.quota import MILLISECOND_US, SECOND_US
from fleetlimit.limiter.ports import Clock, Sleep

INTERVAL_US = 100 * MILLISECOND_US
"""A longer stall is never missed, and told too short by at most this. Of those that last 50 ms, the
store's usual timeout, and would be taken for a slow store, every other one is seen."""


async def monitor_event_loop_lag(
    on_lag: Callable[[float], None], clock: Clock, *, sleep: Sleep = asyncio.sleep
) -> None:
    """Measure again and again, until cancelled.

    Args:
        on_lag: Told each time by how many seconds the timer was late.
        clock: The process's own time.
        sleep: A pause by a timer of the event loop.
    """
    while True:
        due_at_us = clock.monotonic_us() + INTERVAL_US
        await sleep(INTERVAL_US / SECOND_US)
        on_lag(max(0, clock.monotonic_us() - due_at_us) / SECOND_US)
