"""Calendars: windows of a day, week, month or year, in a time zone and from an anchor on.

A window begins at the first instant at which the local clock reaches midnight of its first day. A
midnight that the clock skips is the instant of the jump, and of one that occurs twice the first one
counts. Windows follow each other without a gap: the end of one is the start of the next.

The core imports `datetime` here only, for the arithmetic of dates and zones: `now` stays an
argument.
"""

import re
from bisect import bisect_left
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from difflib import get_close_matches
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from fleetlimit.errors import ConfigError

UTC_NAME: Final = "UTC"
WEEKDAYS: Final = (
    *("monday", "tuesday", "wednesday", "thursday", "friday"),
    *("saturday", "sunday"),
)
LONGEST_DAYS: Final = {"day": 1, "week": 7, "month": 31, "year": 366}
"""Units of a calendar, and the days of the longest window of each. A day of 25 hours, on which the
clock is set back, counts as 24: this length is for headers and metrics, and decides nothing."""
Anchor = int | str
"""First day of a window: a weekday, a day of the month, or month and day of a year (`04-01`)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY_US = 86_400_000_000
_MONTHS = 12
_LEAP_YEAR = 2_000
_YEAR_ANCHOR = re.compile(r"(\d{1,2})-(\d{1,2})", re.ASCII)
_SHORTEST_WEEKDAY = 3
_NO_WINDOW = (0, 0)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Division of the time into days, weeks, months or years.

    Args:
        unit: `day`, `week`, `month` or `year`.
        timezone: IANA name of the time zone.
        anchor: First day of a window. Of a week: a weekday, by default `monday`. Of a month: a day
            from 1 to 31, by default 1; in a shorter month the window begins on the last day. Of a
            year: month and day, by default `01-01`; `02-29` is February 28 in other years.

    Raises:
        ConfigError: A value is invalid, or there is no time zone data; the message says what to
            write.
    """

    unit: str
    timezone: str = UTC_NAME
    anchor: Anchor | None = None
    _zone: tzinfo = field(init=False, repr=False, compare=False)
    _month: int = field(init=False, repr=False, compare=False)
    _day: int = field(init=False, repr=False, compare=False)
    """Weekday from 0, or day of the month."""
    _last: tuple[int, int] = field(init=False, repr=False, compare=False)
    """The window of the last lookup, because nearly all lookups are for the current one."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.unit not in LONGEST_DAYS:
            raise ConfigError(
                f"{self.unit!r} is not a unit of a calendar: write one of {', '.join(LONGEST_DAYS)}"
            )
        if not isinstance(self.timezone, str):
            raise ConfigError(
                f"{self.timezone!r:.80} is not a time zone: write its IANA name in quotes, such as "
                "'Europe/Berlin'"
            )
        put(self, "_zone", load_zone(self.timezone))
        anchor, month, day = _parse_anchor(self.unit, self.anchor)
        put(self, "anchor", anchor)
        put(self, "_month", month)
        put(self, "_day", day)
        put(self, "_last", _NO_WINDOW)

    @property
    def longest_us(self) -> int:
        """Length of the longest window in microseconds, by days of 24 hours."""
        return LONGEST_DAYS[self.unit] * _DAY_US

    def __str__(self) -> str:
        """Return a text without blanks that `parse` reads."""
        return f"{self.unit}@{self.timezone}@{self.anchor or ''}"

    @classmethod
    def parse(cls, text: str) -> "Calendar":
        """Parse the text of `str`.

        Raises:
            ValueError: The text is malformed, or the time zone is not known here.
        """
        unit, timezone, anchor = text.split("@")
        return cls(unit, timezone, int(anchor) if anchor.isdecimal() else anchor or None)

    def window_at(self, at_us: int) -> tuple[int, int]:
        """Return start and end of the window that contains an instant.

        Args:
            at_us: Microseconds since the epoch.
        """
        last = self._last
        if last[0] <= at_us < last[1]:
            return last
        window = self._find(at_us)
        object.__setattr__(self, "_last", window)
        return window

    def boundaries_around(self, at_us: int) -> tuple[int, ...]:
        """Return the starts of the previous, the current and the next three windows, in order.

        Args:
            at_us: Microseconds since the epoch.
        """
        start_us, end_us = self._find(at_us)
        boundaries = [self._find(start_us - 1)[0], start_us, end_us]
        for _ in range(2):
            boundaries.append(self._find(boundaries[-1])[1])
        return tuple(boundaries)

    def _find(self, at_us: int) -> tuple[int, int]:
        local = (_EPOCH + timedelta(microseconds=at_us)).astimezone(self._zone)
        number = self._number_of(local.date())
        # The local date is the one before for a while, where the clock went back over midnight.
        while (end_us := self._start_of(number + 1)) <= at_us:
            number += 1
        start_us = self._start_of(number)
        return start_us, end_us

    def _start_of(self, number: int) -> int:
        return _first_instant_of(self._first_day(number), self._zone)

    def _first_day(self, number: int) -> date:
        """Return the first day of the window of this number."""
        match self.unit:
            case "day":
                return date.fromordinal(number)
            case "week":
                # The day of ordinal 1 is a Monday.
                return date.fromordinal(7 * number + self._day + 1)
            case "month":
                year, month = divmod(number, _MONTHS)
                return _clamped(year, month + 1, self._day)
            case _:
                return _clamped(number, self._month, self._day)

    def _number_of(self, day: date) -> int:
        """Return the number of the window that contains a local date."""
        match self.unit:
            case "day":
                return day.toordinal()
            case "week":
                return (day.toordinal() - 1 - self._day) // 7
            case "month":
                number = day.year * _MONTHS + day.month - 1
            case _:
                number = day.year
        return number if self._first_day(number) <= day else number - 1


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, monthrange(year, month)[1]))


def _first_instant_of(day: date, zone: tzinfo) -> int:
    """Return the first instant, in microseconds, at which the local clock reaches this date."""
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - the zone follows
    # Of a midnight that occurs twice, fold 0 is the first one.
    at_us = _to_us(midnight.replace(tzinfo=zone))
    if _local(at_us, zone) == midnight:
        return at_us
    # The clock skips this midnight: fold 0 and 1 are instants after and before the jump.
    early_us = _to_us(midnight.replace(tzinfo=zone, fold=1))
    instants = range(early_us, at_us + 1)
    return instants[bisect_left(instants, midnight, key=lambda each: _local(each, zone))]


def _to_us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _local(at_us: int, zone: tzinfo) -> datetime:
    moment = _EPOCH + timedelta(microseconds=at_us)
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


@lru_cache(1_024)
def load_zone(name: str) -> tzinfo:
    """Return a time zone of the IANA database, which the system or the package tzdata has.

    Raises:
        ConfigError: There is none of this name, or no database.
    """
    if name == UTC_NAME:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    names = available_timezones()
    if not names:
        raise ConfigError(
            f"time zone {name!r} cannot be read, because this system has no time zone data: "
            "install the package tzdata (pip install tzdata), or write UTC"
        )
    by_lower = {each.lower(): each for each in names}
    close = get_close_matches(name.lower()[:64], by_lower, 1)
    example = by_lower[close[0]] if close else "Europe/Berlin"
    raise ConfigError(f"{name!r:.80} is not a time zone: write an IANA name such as {example}")


def _parse_anchor(unit: str, anchor: Anchor | None) -> tuple[Anchor | None, int, int]:
    """Return an anchor in its usual form, its month, and its weekday or day of the month."""
    match unit:
        case "day":
            if anchor is not None:
                raise ConfigError("a day has no anchor: leave anchor out")
            return None, 1, 1
        case "week":
            return _parse_weekday("monday" if anchor is None else anchor)
        case "month":
            return _parse_month_day(1 if anchor is None else anchor)
        case _:
            return _parse_year_day("01-01" if anchor is None else anchor)


def _parse_weekday(anchor: Anchor) -> tuple[Anchor, int, int]:
    text = anchor.lower() if isinstance(anchor, str) else ""
    for number, weekday in enumerate(WEEKDAYS):
        if len(text) >= _SHORTEST_WEEKDAY and weekday.startswith(text):
            return weekday, 1, number
    raise ConfigError(f"{anchor!r:.80} is not a weekday: write an anchor from monday to sunday")


def _parse_month_day(anchor: Anchor) -> tuple[Anchor, int, int]:
    if type(anchor) is not int or not 1 <= anchor <= 31:  # noqa: PLR2004 - days of a month
        raise ConfigError(f"{anchor!r:.80} is not a day of a month: write an anchor from 1 to 31")
    return anchor, 1, anchor


def _parse_year_day(anchor: Anchor) -> tuple[Anchor, int, int]:
    found = _YEAR_ANCHOR.fullmatch(anchor) if isinstance(anchor, str) else None
    month, day = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= month <= _MONTHS or not 1 <= day <= monthrange(_LEAP_YEAR, month)[1]:
        raise ConfigError(
            f"{anchor!r:.80} is not a day of a year: write an anchor of month and day, such as "
            "'04-01'"
        )
    return f"{month:02}-{day:02}", month, day
