"""Manual clock of the pytest fixtures."""

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
