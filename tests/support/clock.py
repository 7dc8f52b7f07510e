"""Manual clock for tests: the public one, with steps in microseconds and steps back."""

from fleetlimit import testing
from fleetlimit.core.quota import SECOND_US

EPOCH_US = testing.ManualClock().monotonic_us()
"""Initial time of each clock, in microseconds since the epoch: midnight, so that a window of any
usual length begins there."""


class ManualClock(testing.ManualClock):
    """Clock of the process, and of stores, which take its `monotonic_us` as a function."""

    def advance_us(self, micros: int) -> None:
        """Advance the time; a negative number sets it back, as a failover of a store may do."""
        self._us += micros
        self._wake()

    def seconds(self) -> float:
        """Return seconds since the epoch, in place of `time.time` and `time.monotonic`."""
        return self._us / SECOND_US
