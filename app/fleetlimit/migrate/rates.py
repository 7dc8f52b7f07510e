"""Rates of other limiters, as rates of Fleetlimit."""

import re
from dataclasses import dataclass
from math import gcd
from typing import Final

_MS: Final = 1_000
_SECONDS: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    # Not those of a calendar, in slowapi as in `limits`.
    "month": 30 * 86_400,
    "year": 360 * 86_400,
}
_SEPARATORS: Final = re.compile(r"[,;|]")
_SINGLE: Final = re.compile(
    r"\s*([0-9]+)\s*(?:/|\s*per\s*)\s*([0-9]+)?\s*([a-z]+)\s*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate.

    Args:
        text: The rate as Fleetlimit reads it.
        burst: Largest number at once, if it differs from that of the rate.
        unit: Unit of the other limiter's rate, such as `month`; empty where it has none.
    """

    text: str
    burst: int | None = None
    unit: str = ""


def parse_limits(text: str) -> list[Rate] | None:
    """Return the rates of a text of `limits`, such as `5/minute;100 per day`; None if it is none.

    The grammar is that of https://limits.readthedocs.io/en/stable/quickstart.html.
    """
    rates = []
    for part in _SEPARATORS.split(text):
        found = _SINGLE.fullmatch(part)
        unit = found[3].lower().removesuffix("s") if found else ""
        if not found or unit not in _SECONDS or int(found[1]) == 0:
            return None
        count = int(found[2] or 1)
        if count == 0:
            return None
        rates.append(Rate(_text(int(found[1]), count, unit), unit=unit))
    return rates


def _text(limit: int, count: int, unit: str) -> str:
    if unit in {"month", "year"}:
        return f"{limit} per {count * _SECONDS[unit] // _SECONDS['day']} days"
    return f"{limit}/{unit}" if count == 1 else f"{limit} per {count} {unit}s"


def rate_of_milliseconds(limit: int, milliseconds: int) -> Rate | None:
    """Return the rate of a number in a time; None if it allows nothing.

    A time that is not one of whole seconds becomes a longer one with the same rate, in which no
    more are admitted at once.
    """
    if limit <= 0 or milliseconds <= 0:
        return None
    factor = _MS // gcd(milliseconds, _MS)
    seconds = milliseconds * factor // _MS
    text = next(
        (
            _text(limit * factor, seconds // _SECONDS[unit], unit)
            for unit in ("day", "hour", "minute", "second")
            if seconds % _SECONDS[unit] == 0
        ),
        "",
    )
    return Rate(text, limit if factor > 1 else None)
