"""Event-loop lag, measured with a manual clock."""

import asyncio

import pytest

from fleetlimit.telemetry.event_loop_lag import INTERVAL_US, monitor_event_loop_lag
from fleetlimit.testing import ManualClock


async def test_lag_is_the_delay_of_the_timer() -> None:
    """Each pause is measured by itself; an early timer has no lag."""
    clock = ManualClock()
    late = [0, 250_000, -1_000, 40_000]
    ends = iter(late)

    async def sleep(seconds: float) -> None:
        assert seconds == INTERVAL_US / 1_000_000
        micros = next(ends, None)
        if micros is None:
            raise asyncio.CancelledError
        clock.advance((INTERVAL_US + micros) / 1_000_000)

    seen: list[float] = []
    with pytest.raises(asyncio.CancelledError):
        await monitor_event_loop_lag(seen.append, clock, sleep=sleep)
    assert seen == [0, 0.25, 0, 0.04]
