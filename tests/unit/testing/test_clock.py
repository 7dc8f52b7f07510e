"""The clock that users' tests move."""

from datetime import timedelta

import pytest

from fleetlimit.testing import ManualClock


def test_moves_by_seconds_and_timedeltas() -> None:
    """The clock moves by what it is told, to the microsecond."""
    clock = ManualClock()
    start = clock.monotonic_us()
    clock.advance(1.5)
    clock.advance(timedelta(minutes=1))
    assert clock.monotonic_us() - start == 61_500_000


def test_never_goes_back() -> None:
    """A step back is refused."""
    with pytest.raises(ValueError, match="forward only"):
        ManualClock().advance(-1)
