"""Windows of calendars, compared with a slow reference that reads the local clock."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core import calendars
from fleetlimit.core.calendars import WEEKDAYS, Anchor, Calendar, load_zone
from fleetlimit.errors import ConfigError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Santiago"),
    *("America/Havana", "America/Sao_Paulo", "Africa/Cairo", "Asia/Beirut", "Asia/Kolkata"),
    *("Asia/Kathmandu", "Asia/Tehran", "Asia/Amman", "Atlantic/Azores", "Australia/Lord_Howe"),
    *("Pacific/Apia", "Pacific/Chatham", "Pacific/Kiritimati", "Pacific/Kwajalein"),
    *("Antarctica/Troll", "Africa/Casablanca", "America/Scoresbysund", "America/Asuncion"),
]
CALENDARS = [
    ("day", None),
    *(("week", weekday) for weekday in WEEKDAYS),
    *(("month", day) for day in (1, 2, 15, 28, 29, 30, 31)),
    *(("year", anchor) for anchor in ("01-01", "02-28", "02-29", "03-01", "04-06", "12-31")),
]


def us(text: str) -> int:
    """Return an instant in microseconds."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def local(at_us: int, zone: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(microseconds=at_us)).astimezone(zone).replace(tzinfo=None)


def is_first_day(day: date, unit: str, anchor: Anchor | None) -> bool:
    """Return whether a window begins on a day, by looking at the day before and after it."""
    last_of_month = (day + timedelta(days=1)).day == 1
    match unit:
        case "day":
            return True
        case "week":
            return WEEKDAYS[day.weekday()] == anchor
        case "month":
            assert isinstance(anchor, int)
            return day.day == anchor or (last_of_month and day.day < anchor)
        case _:
            month, number = map(int, str(anchor).split("-"))
            return day.month == month and (
                day.day == number or (last_of_month and day.day < number)
            )


def begins_at(day: date, zone: ZoneInfo) -> int:
    """Return the first minute at which the local clock reaches a date, searched from before it."""
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - local time
    at_us = (midnight.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) - 27 * HOUR_US
    # By hours as long as it is more than two hours away: no clock jumps back by more.
    while midnight - local(at_us, zone) > timedelta(hours=3):
        at_us += HOUR_US
    while local(at_us, zone) < midnight:
        at_us += MINUTE_US
    return at_us


@pytest.mark.parametrize("name", ZONES)
def test_windows_are_those_of_the_local_clock(name: str) -> None:
    """All windows of three years, of each unit and anchor, from one instant of each on."""
    zone = ZoneInfo(name)
    # Samoa skipped 30 December 2011; Newfoundland set its clock back at 00:01 until 2011.
    first, last = date(2010, 12, 1), date(2013, 2, 1)
    days = [first + timedelta(days=number) for number in range((last - first).days)]
    begins = {day: begins_at(day, zone) for day in days}
    for unit, anchor in CALENDARS:
        calendar = Calendar(unit, name, anchor)
        starts = sorted({begins[day] for day in days if is_first_day(day, unit, anchor)})
        for start_us, end_us in pairwise(starts):
            for at_us in (start_us, (start_us + end_us) // 2, end_us - 1):
                assert calendar._find(at_us) == (start_us, end_us)


@given(
    at_us=st.integers(us("1975-01-01T00:00Z"), us("2090-01-01T00:00Z")),
    name=st.sampled_from(ZONES),
    kind=st.sampled_from(CALENDARS),
)
def test_windows_follow_each_other(at_us: int, name: str, kind: tuple[str, Anchor | None]) -> None:
    """Windows contain their instant, follow without a gap, and begin at a local midnight."""
    unit, anchor = kind
    calendar = Calendar(unit, name, anchor)
    start_us, end_us = calendar.window_at(at_us)
    assert start_us <= at_us < end_us
    assert calendar.window_at(end_us - 1) == (start_us, end_us)
    assert calendar.window_at(end_us)[0] == end_us
    assert end_us - start_us <= calendar.longest_us + 26 * HOUR_US
    zone = ZoneInfo(name)
    assert local(start_us, zone).date() > local(start_us - 1, zone).date()
    boundaries = calendar.boundaries_around(at_us)
    assert boundaries[1:3] == (start_us, end_us)
    assert list(boundaries) == sorted(set(boundaries))
    for begin_us, next_us in pairwise(boundaries):
        assert calendar.window_at(begin_us) == (begin_us, next_us)


@pytest.mark.parametrize(
    ("calendar", "at", "start", "end"),
    [
        (Calendar("month", "UTC", 31), "2026-02-28T00:00Z", "2026-02-28", "2026-03-31"),
        (Calendar("month", "UTC", 31), "2024-02-29T00:00Z", "2024-02-29", "2024-03-31"),
        (Calendar("month", "UTC", 15), "2026-01-14T23:59Z", "2025-12-15", "2026-01-15"),
        (Calendar("year", "UTC", "02-29"), "2024-02-29T00:00Z", "2024-02-29", "2025-02-28"),
        (Calendar("year", "UTC", "02-29"), "2024-02-28T23:59Z", "2023-02-28", "2024-02-29"),
        (Calendar("week"), "2026-11-29T12:00Z", "2026-11-23", "2026-11-30"),
        (Calendar("week", "UTC", "sunday"), "2026-11-29T12:00Z", "2026-11-29", "2026-12-06"),
    ],
    ids=str,
)
def test_window_of_an_anchor(calendar: Calendar, at: str, start: str, end: str) -> None:
    """An anchor beyond the end of a month is its last day."""
    assert calendar.window_at(us(at)) == (us(f"{start}T00:00Z"), us(f"{end}T00:00Z"))


def test_month_of_a_zone_begins_at_its_midnight() -> None:
    """March in Berlin begins at 23:00 UTC and ends, in summer time, at 22:00 UTC."""
    window = us("2026-02-28T23:00Z"), us("2026-03-31T22:00Z")
    assert Calendar("month", "Europe/Berlin").window_at(us("2026-03-29T12:00Z")) == window


def test_day_with_a_skipped_midnight_begins_at_the_jump() -> None:
    """In Cairo, the clock jumped from 24 April 2026, 00:00 to 01:00."""
    start_us, end_us = Calendar("day", "Africa/Cairo").window_at(us("2026-04-24T12:00Z"))
    assert (start_us, end_us) == (us("2026-04-23T22:00Z"), us("2026-04-24T21:00Z"))


def test_day_that_began_is_not_left_where_the_clock_goes_back_over_midnight() -> None:
    """In St. John's, the clock went from 7 November 2010, 00:01 back to 6 November, 23:01."""
    window = us("2010-11-07T02:30Z"), us("2010-11-08T03:30Z")
    calendar = Calendar("day", "America/St_Johns")
    assert calendar.window_at(us("2010-11-07T03:00Z")) == window
    assert calendar.window_at(us("2010-11-07T02:30Z") - 1)[1] == window[0]


@pytest.mark.parametrize(
    ("unit", "anchor", "kept"),
    [
        ("week", "TUE", "tuesday"),
        ("week", None, "monday"),
        ("month", None, 1),
        ("month", 31, 31),
        ("year", None, "01-01"),
        ("year", "4-6", "04-06"),
        ("day", None, None),
    ],
)
def test_anchor_has_one_form(unit: str, anchor: Anchor | None, kept: Anchor | None) -> None:
    """Equal calendars are equal however they were written, and their text reads back."""
    calendar = Calendar(unit, "Europe/Berlin", anchor)
    assert calendar.anchor == kept
    assert calendar == Calendar(unit, "Europe/Berlin", kept)
    assert Calendar.parse(str(calendar)) == calendar
    assert " " not in str(calendar)


@pytest.mark.parametrize(
    ("unit", "anchor", "message"),
    [
        ("hour", None, "write one of day, week, month, year"),
        ("day", 1, "leave anchor out"),
        ("week", 1, "write an anchor from monday to sunday"),
        ("week", "m", "write an anchor from monday to sunday"),
        ("week", "someday", "write an anchor from monday to sunday"),
        ("month", 0, "write an anchor from 1 to 31"),
        ("month", 32, "write an anchor from 1 to 31"),
        ("month", True, "write an anchor from 1 to 31"),
        ("month", "15", "write an anchor from 1 to 31"),
        ("month", 1.0, "write an anchor from 1 to 31"),
        ("year", 1, "such as '04-01'"),
        ("year", "13-01", "such as '04-01'"),
        ("year", "0-1", "such as '04-01'"),
        ("year", "02-30", "such as '04-01'"),
        ("year", "04-00", "such as '04-01'"),
        ("year", "april", "such as '04-01'"),
    ],
)
def test_calendar_rejects_other_values(unit: str, anchor: Anchor | None, message: str) -> None:
    """The message says what to write."""
    with pytest.raises(ConfigError, match=message):
        Calendar(unit, "UTC", anchor)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Europe/berlin", "write an IANA name such as Europe/Berlin"),
        ("Berlin", "is not a time zone: write an IANA name such as"),
        ("", "is not a time zone"),
        ("../../etc/passwd", "is not a time zone"),
        ("/etc/localtime", "is not a time zone"),
        ("Europe", "is not a time zone"),
        ("Europe/\udc80", "is not a time zone"),
        ("x" * 10_000, "is not a time zone"),
        ("a\0b", "is not a time zone"),
        (5, "5 is not a time zone: write its IANA name in quotes, such as 'Europe/Berlin'"),
        (None, "None is not a time zone"),
        (["UTC"], "is not a time zone"),
        (ZoneInfo("UTC"), "write its IANA name in quotes"),
    ],
)
def test_unknown_time_zone_is_an_error(name: Any, message: str) -> None:
    """No name is replaced by UTC in silence."""
    with pytest.raises(ConfigError, match=message):
        Calendar("month", name)


def test_missing_time_zone_data_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which package to install; UTC works without."""

    def no_zone(name: str) -> ZoneInfo:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(calendars, "ZoneInfo", no_zone)
    monkeypatch.setattr(calendars, "available_timezones", set)
    load_zone.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install tzdata\), or write UTC"):
        Calendar("month", "Europe/Berlin")
    assert Calendar("month", "UTC").window_at(0) == (0, 31 * DAY_US)


@pytest.mark.parametrize("text", ["", "month", "month@UTC", "month@UTC@x", "fortnight@UTC@"])
def test_parse_rejects_malformed_text(text: str) -> None:
    """A replica of another version may report it."""
    with pytest.raises(ValueError):  # noqa: PT011 - either of two messages
        Calendar.parse(text)
