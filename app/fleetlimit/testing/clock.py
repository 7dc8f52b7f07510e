"""Manual clock for tests: time advances only when a test advances it."""

from datetime import UTC, datetime, timedelta

from fleetlimit.core.quota import SECOND_US

_START = datetime(2030, 1, 1, tzinfo=UTC)


class ManualClock:
    """Clock of the buckets and caches of a limiter under test.

    It starts at midnight, so that windows of a minute, an hour or a day start with it.

    Args:
        start: Initial time.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._us = round(start.timestamp()) * SECOND_US

    def monotonic_us(self) -> int:
        """Return microseconds since the epoch; the clock serves as the store's clock too."""
        return self._us

    def advance(self, seconds: float | timedelta) -> None:
        """Advance the time.

        Args:
            seconds: Seconds or a `timedelta`, at least 0.

        Raises:
            ValueError: `seconds` is negative.
        """
        elapsed_s = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if elapsed_s < 0:
            raise ValueError("time goes forward only: advance the clock by 0 seconds or more")
        self._us += round(elapsed_s * SECOND_US)
