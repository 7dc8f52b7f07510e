"""Manual clock of store time, so that no test waits."""

from dataclasses import dataclass

EPOCH_US = 1_700_006_400_000_000
"""Where a moved clock starts: midnight, so that a window of any usual length begins there."""


@dataclass(slots=True)
class ManualClock:
    """Microseconds since the epoch, standing still until they are moved."""

    now_us: int = EPOCH_US

    def __call__(self) -> int:
        """Return the time."""
        return self.now_us

    def advance_us(self, micros: int) -> None:
        """Move on, or back by a negative number."""
        self.now_us += micros
