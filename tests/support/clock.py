"""Manual clock for stores, so that tests do not wait."""

from dataclasses import dataclass

EPOCH_US = 1_700_006_400_000_000
"""Where a moved clock starts: midnight, so that a window of any usual length begins there."""


@dataclass(slots=True)
class ManualClock:
    """Microseconds since the epoch, advanced only by a test."""

    now_us: int = EPOCH_US

    def __call__(self) -> int:
        """Return the time."""
        return self.now_us

    def advance_us(self, micros: int) -> None:
        """Advance the time; a negative number sets it back."""
        self.now_us += micros
