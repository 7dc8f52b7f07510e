"""Clock of buckets that a test moves: a reset of buckets takes a microsecond of it."""

from collections.abc import Callable


class BucketClock:
    """Clock that shows another time after a reset than before, also while a test holds it.

    A bucket refunds no charge from before its reset, and compares their times for that. On a
    server, the calls before and after a reset have different times.

    Args:
        now_us: The test's clock, in microseconds.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._read_us = now_us
        self._last_reset_at_us = 0
        self._resets = 0

    def now_us(self) -> int:
        """Return the time in microseconds, and one more for each reset at this time."""
        now_us = self._read_us()
        return now_us + self._resets if now_us == self._last_reset_at_us else now_us

    def on_reset(self) -> None:
        """Record a reset."""
        now_us = self._read_us()
        self._resets = self._resets + 1 if now_us == self._last_reset_at_us else 1
        self._last_reset_at_us = now_us
