"""Manual clock of the pytest fixtures."""

import asyncio
from datetime import timedelta

import pytest

from fleetlimit.testing import ManualClock


def test_manual_clock_advances_by_seconds_and_timedeltas() -> None:
    """The clock advances by its argument, to the microsecond."""
    clock = ManualClock()
    start_us = clock.monotonic_us()
    clock.advance(1.5)
    clock.advance(timedelta(minutes=1))
    assert clock.monotonic_us() - start_us == 61_500_000


def test_manual_clock_rejects_negative_steps() -> None:
    """A negative step is an error."""
    with pytest.raises(ValueError, match="forward only"):
        ManualClock().advance(-1)


async def test_manual_clock_ends_pauses_in_the_order_of_their_times() -> None:
    """A pause ends when the clock has advanced by its length, and not before."""
    clock = ManualClock()
    ended: list[float] = []

    async def pause(seconds: float) -> None:
        await clock.sleep(seconds)
        ended.append(seconds)

    tasks = [asyncio.create_task(pause(seconds)) for seconds in (2, 1, 0)]
    await asyncio.wait({tasks[-1]})
    assert (ended, clock.sleepers) == ([0], 2)
    clock.advance(0.999_999)
    await asyncio.sleep(0)
    assert ended == [0]
    await asyncio.to_thread(clock.advance, 2)
    await asyncio.gather(*tasks)
    assert ended == [0, 1, 2]
    assert clock.sleepers == 0


async def test_manual_clock_forgets_a_cancelled_pause() -> None:
    """A cancelled pause is removed, also when the clock has just reached its end."""
    clock = ManualClock()
    early, late = (asyncio.create_task(clock.sleep(1)) for _ in range(2))
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.wait({early})
    assert clock.sleepers == 1
    clock.advance(1)
    late.cancel()
    await asyncio.wait({late})
    assert clock.sleepers == 0


def test_manual_clock_ignores_a_pause_of_a_closed_event_loop() -> None:
    """A pause whose event loop has ended does not break the clock."""
    clock = ManualClock()
    loop = asyncio.new_event_loop()
    task = loop.create_task(clock.sleep(1))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    clock.advance(2)
    assert clock.sleepers == 0
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was left on purpose
