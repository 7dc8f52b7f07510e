"""Monotonic clock of this process."""

import time


class MonotonicClock:
    """Monotonic clock of this process."""

    def monotonic_us(self) -> int:
        """Return monotonic microseconds."""
        return time.monotonic_ns() // 1_000
