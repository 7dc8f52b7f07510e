"""Event-loop lag, measured with a manual clock."""

import asyncio

from fleetlimit.telemetry.event_loop_lag import INTERVAL_US, EventLoopLagMonitor
from fleetlimit.testing import ManualClock
from support.eventually import PATIENCE_SECONDS


async def test_lag_is_the_delay_of_the_timer() -> None:
    """Each pause is measured by itself; an early timer has no lag."""
    clock, done = ManualClock(), asyncio.Event()
    delays = iter([0, 250_000, -1_000, 40_000])

    async def sleep(seconds: float) -> None:
        assert seconds == INTERVAL_US / 1_000_000
        micros = next(delays, None)
        if micros is None:
            done.set()
            await asyncio.Event().wait()
        else:
            clock.advance((INTERVAL_US + micros) / 1_000_000)

    seen: list[float] = []
    monitor = EventLoopLagMonitor(seen.append, clock, sleep=sleep)
    monitor.start()
    await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
    assert monitor.running
    await monitor.stop()
    assert not monitor.running
    assert seen == [0, 0.25, 0, 0.04]
