"""Manual clock for tests: time advances only when a test advances it."""

import asyncio
import math
import threading
from datetime import UTC, datetime, timedelta

from fleetlimit.core.quota import SECOND_US

_START = datetime(2030, 1, 1, tzinfo=UTC)


class ManualClock:
    """Clock of the buckets and caches of a limiter under test.

    It starts at midnight, so that windows of a minute, an hour or a day start with it. A check that
    waits in `acquire` goes on when the clock has advanced by its wait; any thread may advance it.

    Args:
        start: Initial time.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._us = round(start.timestamp()) * SECOND_US
        self._lock = threading.Lock()
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

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
        self._wake()

    async def sleep(self, seconds: float) -> None:
        """Pause until the clock has been advanced by this number of seconds.

        Args:
            seconds: Seconds, rounded up to microseconds.
        """
        future = asyncio.get_running_loop().create_future()
        wake_at_us = self._us + math.ceil(round(seconds * SECOND_US, 3))
        with self._lock:
            self._sleepers.append((wake_at_us, future))
        self._wake()
        try:
            await future
        finally:
            with self._lock:
                self._sleepers = [each for each in self._sleepers if each[1] is not future]

    @property
    def sleepers(self) -> int:
        """Number of pauses that last."""
        return len(self._sleepers)

    def _wake(self) -> None:
        """End the pauses whose time has come, in their order."""
        with self._lock:
            due = sorted(
                (each for each in self._sleepers if each[0] <= self._us), key=lambda each: each[0]
            )
            self._sleepers = [each for each in self._sleepers if each not in due]
        for _, future in due:
            loop = future.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
