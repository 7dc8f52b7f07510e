"""Calendar windows for the scripts: boundaries around the store's time, computed by the replica.

A script has no time zone data. It receives the boundaries of five windows, and the server's time
chooses the window among them. They are computed around this replica's time. The decision is right
where the clocks differ by less than the windows around the current one cover, which is a day at
least. Where they differ by more, the script decides nothing and replies with the server's time. The
replica then computes the boundaries around that time, and calls again.
"""

import re
import time
from collections.abc import Callable
from typing import Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.calendars import Calendar
from fleetlimit.errors import StoreError

WIRE_NAME: Final = "calendar_window"
"""Name of the algorithm in the scripts."""
OUTSIDE_KIND: Final = "calendar"
"""Kind of the error of a call whose boundaries do not contain the server's time."""
_SERVER_TIME = re.compile(r"CALENDAR (\d+)", re.ASCII)
_MAX_CALENDARS: Final = 1_024


class CalendarWindows:
    """Encoded boundaries of calendars.

    Args:
        now_us: Clock of the buckets, for tests, in microseconds since the epoch; None for this
            replica's clock, corrected by the server's where they differ much.
    """

    def __init__(self, now_us: Callable[[], int] | None = None) -> None:
        self._read_us = now_us or _wall_clock_us
        self._offset_us = 0
        self._encoded: BoundedCache[Calendar, tuple[int, int, str]] = BoundedCache(_MAX_CALENDARS)

    def encode(self, calendar: Calendar) -> str:
        """Return the boundaries for a script; the text is the same during a window."""
        now_us = self._read_us() + self._offset_us
        found = self._encoded.get(calendar)
        if found is None or not found[0] <= now_us < found[1]:
            boundaries = calendar.boundaries_around(now_us)
            found = (boundaries[1], boundaries[2], ",".join(map(str, boundaries)))
            self._encoded.put(calendar, found)
        return found[2]

    def correct(self, error: StoreError) -> bool:
        """Use the server's time from now on; return whether the error has it."""
        found = _SERVER_TIME.search(str(error)) if error.kind == OUTSIDE_KIND else None
        if found is None:
            return False
        self._offset_us = int(found[1]) - self._read_us()
        return True


def _wall_clock_us() -> int:
    return time.time_ns() // 1_000
