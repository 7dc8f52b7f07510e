"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

from fleetlimit.core.quota import SECOND_US

_START = datetime(2030, 1, 1, tzinfo=UTC)


class ManualClock:
    """Time for buckets and caches of a limiter under test.

    It starts at midnight, so that windows of a minute, an hour or a day begin with it.

    Args:
        start: The time it shows at first.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._us = round(start.timestamp()) * SECOND_US

    def monotonic_us(self) -> int:
        """Return microseconds since the epoch."""
        return self._us

    def advance(self, seconds: float | timedelta) -> None:
        """Let time pass.

        Args:
            seconds: How much, at least 0.

        Raises:
            ValueError: Time cannot go back here.
        """
        elapsed_s = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if elapsed_s < 0:
            raise ValueError("time goes forward only: move the clock by 0 seconds or more")
        self._us += round(elapsed_s * SECOND_US)
