"""Time to wait that a service's answer states: Retry-After and the fields of rate limits.

Unknown and malformed values state nothing: an answer must neither fail a call nor stop it for ever.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

_MAX_CHARS: Final = 1_024
"""Longest value that is read; those of real services have at most some hundred characters."""
_MAX_FIELDS: Final = 200
"""Most fields of an answer that are looked at."""
_EPOCH_S: Final = 1e9
"""A reset above this is no duration but a Unix time: as a duration it would be 31 years."""
_EPOCH_MS: Final = 1e12
"""A reset above this is a Unix time in milliseconds."""
_ITEM: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])+')
_PARAMETER: Final = re.compile(r"(?:^|[;,\s])([a-z]+)=([0-9.]+)(?=$|[;,\s])")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[dhms])")
_UNIT_S: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_REMAINING: Final = re.compile(r"(?:x-)?rate-?limit-remaining(-[a-z0-9-]+)?")
_ANTHROPIC: Final = re.compile(r"anthropic-ratelimit-([a-z-]+)-remaining")


def stated_wait_s(status: int, fields: Mapping[str, str], unix_now: float) -> float:
    """Return the seconds after which the service accepts another call; 0 for at once.

    Args:
        status: Status of the answer.
        fields: Header fields of the answer by lower-case name.
        unix_now: Current Unix time, for fields that state an instant.
    """
    known = {
        name: value.strip()
        for name, value in list(fields.items())[:_MAX_FIELDS]
        if len(value) <= _MAX_CHARS
    }
    waits = [_rate_limit(known.get("ratelimit", "")), *_remaining_fields(known, unix_now)]
    if status >= HTTPStatus.BAD_REQUEST:
        # RFC 9110, 10.2.3; that of a redirect is for the client that follows it.
        waits.append(_retry_after(known.get("retry-after", ""), unix_now))
        waits.append(_number(known.get("retry-after-ms", "")) / 1_000)
    return max(0.0, *waits)


def _retry_after(text: str, unix_now: float) -> float:
    return _number(text) or _instant(parsedate_to_datetime, text, unix_now)


def _rate_limit(text: str) -> float:
    """Return the wait of `RateLimit`: of an item without units, or of the older dictionary."""
    waits = [0.0]
    older: dict[str, float] = {}
    for item in _ITEM.findall(text):
        parameters = {
            name: _number(value) for name, value in _PARAMETER.findall(_QUOTED.sub("", item))
        }
        older.update(parameters)
        # The next draft calls `r` and `t` `a` and `w`.
        if parameters.get("r", parameters.get("a")) == 0:
            waits.append(parameters.get("t", parameters.get("w", 0.0)))
    if older.get("remaining") == 0:
        waits.append(older.get("reset", 0.0))
    return max(waits)


def _remaining_fields(fields: Mapping[str, str], unix_now: float) -> list[float]:
    """Return the waits of fields that state the remaining units and the reset apart."""
    waits = []
    for name, value in fields.items():
        if not value or not _is_zero(value):
            continue
        if (found := _REMAINING.fullmatch(name)) is not None:
            suffix = found[1] or ""
            base = name.removesuffix(suffix).removesuffix("remaining")
            after = fields.get(f"{base}reset-after{suffix}")
            reset = fields.get(f"{base}reset{suffix}", "") if after is None else after
            waits.append(_reset(reset, unix_now))
        elif (found := _ANTHROPIC.fullmatch(name)) is not None:
            waits.append(_reset(fields.get(f"anthropic-ratelimit-{found[1]}-reset", ""), unix_now))
    return waits


def _is_zero(text: str) -> bool:
    return bool(re.fullmatch(r"0+(?:\.0+)?", text, re.ASCII))


def _reset(text: str, unix_now: float) -> float:
    """Return the wait of a reset: seconds, a Unix time, a duration such as `6m0s`, or a date."""
    number = _number(text)
    if number > _EPOCH_MS:
        return max(0.0, number / 1_000 - unix_now)
    if number > _EPOCH_S:
        return max(0.0, number - unix_now)
    if number:
        return number
    parts = _PART.findall(text)
    if parts and "".join(f"{amount}{unit}" for amount, unit in parts) == text:
        return sum(_number(amount) * _UNIT_S[unit] for amount, unit in parts)
    return _instant(datetime.fromisoformat, text, unix_now)


def _number(text: str) -> float:
    """Return a number of at most 20 digits; 0 for another text."""
    if not re.fullmatch(r"[0-9]{1,20}(?:\.[0-9]{1,20})?", text, re.ASCII):
        return 0.0
    return float(text)


def _instant(parse: Callable[[str], datetime], text: str, unix_now: float) -> float:
    """Return the seconds until a date, at least 0; 0 for a text that is none."""
    try:
        parsed = parse(text)
        aware = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
        seconds = aware.timestamp() - unix_now
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
