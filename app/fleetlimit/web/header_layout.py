"""Layout of the limit headers: the formats and the custom names that a response has.

A layout has one or more formats. A format of header names is a mapping of fields to names:

limit            units of a full bucket (the burst)
remaining        units that are available now
used             `limit` without `remaining`
reset            seconds until the bucket is full; after a rejection, until a retry is admitted
reset_duration   the same as a duration of Go, such as `6m0s`
reset_epoch      the same instant as a Unix time in seconds
reset_at         the same instant as RFC 3339 has it, in UTC
window           seconds in which an empty bucket refills
policy           name of the limit, as in the RateLimit fields

Of several limits the most restrictive one is stated: the longest wait, or else the fewest remaining
units. `{unit}` in a name becomes `requests` or `tokens`, and the limits of each unit are stated by
themselves. A limit counts tokens if its policy's `cost` is a `usage`, or if `tokens` is a word of
its policy's name.

The fields of `github` are those of "Rate limits for the REST API" (docs.github.com), of `openai`
those of the guide "Rate limits" (platform.openai.com/docs).
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from fleetlimit.core.decision import BucketStatus, Decision, ceil_seconds
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.errors import ConfigError
from fleetlimit.web.ratelimit_headers import HeaderFormat, Headers, draft_headers, limit_names

HeaderSpec = str | Mapping[str, str] | Sequence[str | Mapping[str, str]]
"""A format, custom names by field, or several of both."""

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
FIELDS: Final = {
    "limit": "Units of the full limit.",
    "remaining": "Units that are available.",
    "used": "Units that are spent.",
    "reset": "Seconds until the limit is restored.",
    "reset_duration": "Time until the limit is restored, such as 6m0s.",
    "reset_epoch": "Unix time in seconds at which the limit is restored.",
    "reset_at": "Time at which the limit is restored (RFC 3339).",
    "window": "Seconds in which the limit refills.",
    "policy": "Name of the limit.",
}
"""Fields of a format of names, with their description for clients."""
_UNIT: Final = "{unit}"
_DRAFT_NAMES: Final = ("RateLimit", "RateLimit-Policy")
_DRAFT_PARAMETERS: Final = {
    HeaderFormat.DRAFT_11: ("r", "t"),
    HeaderFormat.DRAFT_NEXT: ("a", "w"),
}
_NAMES_BY_FORMAT: Final[Mapping[HeaderFormat, Mapping[str, str]]] = {
    HeaderFormat.X_RATELIMIT: {
        "limit": "X-RateLimit-Limit",
        "remaining": "X-RateLimit-Remaining",
        "reset": "X-RateLimit-Reset",
    },
    HeaderFormat.X_RATELIMIT_EPOCH: {
        "limit": "X-RateLimit-Limit",
        "remaining": "X-RateLimit-Remaining",
        "reset_epoch": "X-RateLimit-Reset",
    },
    HeaderFormat.GITHUB: {
        "limit": "x-ratelimit-limit",
        "remaining": "x-ratelimit-remaining",
        "used": "x-ratelimit-used",
        "reset_epoch": "x-ratelimit-reset",
        "policy": "x-ratelimit-resource",
    },
    HeaderFormat.OPENAI: {
        "limit": "x-ratelimit-limit-{unit}",
        "remaining": "x-ratelimit-remaining-{unit}",
        "reset_duration": "x-ratelimit-reset-{unit}",
    },
}
_MAX_SKEW_US: Final = 60 * SECOND_US
"""Largest difference between the store's clock and this one that an instant is corrected by."""
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)
"""A header name (RFC 9110, section 5.1)."""
_RESERVED: Final = frozenset(
    {
        *map(str.lower, _DRAFT_NAMES),
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "etag",
        "location",
        "retry-after",
        "server",
        "set-cookie",
        "transfer-encoding",
        "vary",
        "www-authenticate",
    }
)
"""Headers with a meaning of their own, which a limit must not replace."""
WHAT_TO_WRITE: Final = (
    f"one of {', '.join(HeaderFormat)}, several with commas, or names such as "
    "limit=X-Limit,remaining=X-Remaining"
)
"""A specification in words. Messages do not repeat a setting: it may be a misplaced secret."""


@dataclass(frozen=True, slots=True)
class _Names:
    """A format of header names.

    Args:
        pairs: Fields with their names; names with `{unit}` are those of each unit.
    """

    pairs: tuple[tuple[str, str], ...]

    def header_names(self) -> Iterator[str]:
        """Yield every name that the headers can have."""
        for _, name in self.pairs:
            if _UNIT in name:
                yield from (name.replace(_UNIT, unit) for unit in (REQUESTS, TOKENS))
            else:
                yield name

    def write(
        self, decision: Decision, unix_us: int, token_policies: Container[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield the headers of a decision; arguments are those of `HeaderLayout.headers`."""
        known = list(_known_limits(decision, token_policies))
        strictest: dict[str, _Limit] = {}
        if known:
            strictest[""] = min(known, key=_restriction)
            for unit in (REQUESTS, TOKENS):
                if of_unit := [each for each in known if each.unit == unit]:
                    strictest[unit] = min(of_unit, key=_restriction)
        for field, name in self.pairs:
            for unit, limit in strictest.items():
                if (_UNIT in name) is bool(unit):
                    yield name.replace(_UNIT, unit), limit.value(field, unix_us)


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit with the status of its bucket."""

    name: str
    unit: str
    quota: Quota
    status: BucketStatus

    @property
    def reset_us(self) -> int:
        """Microseconds until the bucket is full; after a rejection, until a retry is admitted."""
        status = self.status
        return status.reset_after_us if status.allowed else status.retry_after_us

    def value(self, field: str, unix_us: int) -> str:
        """Return the value of a field."""
        return _VALUES[field](self, ceil_seconds(self._reset_at_us(unix_us)))

    def _reset_at_us(self, unix_us: int) -> int:
        """Return the instant of the reset; of a calendar the boundary of its windows, exactly."""
        reset_at_us = unix_us + self.reset_us
        if self.quota.calendar is not None and self.reset_us:
            # The status is some milliseconds old, and the store's clock differs from this one.
            for boundary_us in self.quota.calendar.boundaries_around(reset_at_us):
                if abs(boundary_us - reset_at_us) <= _MAX_SKEW_US:
                    return boundary_us
        return reset_at_us


_VALUES: Final[Mapping[str, Callable[[_Limit, int], str]]] = {
    "limit": lambda limit, _: str(limit.quota.burst),
    "remaining": lambda limit, _: str(limit.status.remaining),
    "used": lambda limit, _: str(max(0, limit.quota.burst - limit.status.remaining)),
    "reset": lambda limit, _: str(ceil_seconds(limit.reset_us)),
    "reset_duration": lambda limit, _: go_duration(ceil_seconds(limit.reset_us)),
    "reset_epoch": lambda _, reset_at: str(reset_at),
    "reset_at": lambda _, reset_at: _rfc_3339(reset_at),
    "window": lambda limit, _: str(ceil_seconds(limit.quota.refill_us)),
    "policy": lambda limit, _: limit.name,
}
"""Value of each field, from a limit and the Unix time in seconds of its reset."""


def _known_limits(decision: Decision, token_policies: Container[str]) -> Iterator[_Limit]:
    for result in decision.results:
        if result.mode is Mode.SHADOW:
            continue
        names = limit_names(result.policy, result.quotas)
        unit = TOKENS if result.policy in token_policies else unit_of(result.policy)
        for name, quota, status in zip(names, result.quotas, result.statuses, strict=True):
            if status is not None:
                yield _Limit(name, unit, quota, status)


def _restriction(limit: _Limit) -> tuple[int, int]:
    return -limit.status.retry_after_us, limit.status.remaining


@lru_cache(1_024)
def unit_of(policy: str) -> str:
    """Return `tokens` if that is a word of a policy's name, or else `requests`."""
    return TOKENS if TOKENS in re.split(r"[._/-]", policy.lower()) else REQUESTS


def go_duration(seconds: int) -> str:
    """Return whole seconds as Go formats a `time.Duration`: `9s`, `6m0s`, `24h0m0s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _rfc_3339(unix_seconds: int) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class HeaderLayout:
    """The limit headers of all responses of a limiter.

    Args:
        parts: Formats of the RateLimit fields, and formats of names.
        text: The layout as a setting, as `FLEETLIMIT_HEADERS` has it.
    """

    def __init__(self, parts: Sequence[HeaderFormat | _Names], text: str) -> None:
        self.text = text
        self._parts = tuple(parts)
        self.names = tuple(_part_names(self._parts))
        """Names of all headers, Retry-After not among them."""
        self.raw_names = frozenset(name.lower().encode() for name in self.names)
        """The same as ASGI represents them."""
        self.exposed = ", ".join([*self.names, "Retry-After"])
        """Value of `Access-Control-Expose-Headers` that lets a browser's script read them."""
        # Values of the same decision in the same seconds are equal, so that they are cached.
        self.is_draft_11 = self._parts == (HeaderFormat.DRAFT_11,)

    def headers(
        self, decision: Decision, *, unix_us: int = 0, token_policies: Container[str] = ()
    ) -> Headers:
        """Return the headers that state a decision's limits.

        Args:
            decision: Decision about the request.
            unix_us: Current Unix time in microseconds, for fields with an instant.
            token_policies: Names of policies that count tokens, whatever their names.
        """
        headers: Headers = []
        for part in self._parts:
            if isinstance(part, _Names):
                headers += part.write(decision, unix_us, token_policies)
            else:
                headers += draft_headers(decision, *_DRAFT_PARAMETERS[part])
        return headers

    def descriptions(self) -> dict[str, str]:
        """Return the description of each header."""
        found = {}
        for part in self._parts:
            if isinstance(part, _Names):
                for field, name in part.pairs:
                    for unit in (REQUESTS, TOKENS) if _UNIT in name else ("",):
                        of_unit = f" Counts {unit}." if unit else ""
                        found[name.replace(_UNIT, unit)] = FIELDS[field] + of_unit
            else:
                found["RateLimit"] = (
                    "Remaining units of each limit, and seconds until there are more."
                )
                found["RateLimit-Policy"] = "The limits that apply to this request."
        return found


def parse_layout(spec: HeaderSpec) -> HeaderLayout:
    """Return the layout of a specification.

    Args:
        spec: A format, such as `draft-11`; a mapping of fields to header names; or several of both,
            in a sequence or separated by commas. In text, custom names are `field=Name`.

    Raises:
        ConfigError: The specification is wrong; the message says what to write.
    """
    parts: list[HeaderFormat | _Names] = []
    texts: list[str] = []
    custom: dict[str, str] = {}
    for each in _items(spec):
        if isinstance(each, Mapping):
            parts.append(_named(each))
            texts += [f"{field}={name}" for field, name in each.items()]
        elif "=" in each:
            field, _, name = map(str.strip, each.partition("="))
            if field in custom:
                raise ConfigError(f"{field} has two names: write one")
            custom[field] = name
        else:
            parts.append(_part(each))
            texts.append(each)
    if custom:
        parts.append(_named(custom))
        texts += [f"{field}={name}" for field, name in custom.items()]
    _require_no_repetition(parts, texts)
    without_none = [part for part in parts if part is not HeaderFormat.NONE]
    return HeaderLayout(without_none, ",".join(texts))


def header_setting(spec: HeaderSpec) -> str:
    """Return a specification as a setting: the text that stands for it, or the format.

    Raises:
        ConfigError: As for `parse_layout`.
    """
    text = parse_layout(spec).text
    return HeaderFormat(text) if text in set(HeaderFormat) else text


def _items(spec: HeaderSpec) -> Iterator[str | Mapping[str, str]]:
    """Yield the formats and mappings of a specification, white space removed.

    Raises:
        ConfigError: It is of another type, or empty.
    """
    if isinstance(spec, str | Mapping):
        spec = [spec]
    elif not isinstance(spec, Sequence) or isinstance(spec, bytes):
        raise ConfigError(f"write {WHAT_TO_WRITE}")
    if not spec:
        raise ConfigError(f"write {WHAT_TO_WRITE}")
    for each in spec:
        if isinstance(each, Mapping):
            yield each
        elif isinstance(each, str):
            yield from map(str.strip, each.split(","))
        else:
            raise ConfigError(f"write {WHAT_TO_WRITE}")


def _part(text: str) -> HeaderFormat | _Names:
    try:
        known = HeaderFormat(text)
    except ValueError:
        raise ConfigError(f"write {WHAT_TO_WRITE}") from None
    names = _NAMES_BY_FORMAT.get(known)
    return known if names is None else _Names(tuple(names.items()))


def _named(names: Mapping[str, str]) -> _Names:
    """Return a format of custom names.

    Raises:
        ConfigError: A field is not known, or a name cannot be that of a limit header.
    """
    if not names:
        raise ConfigError(f"write {WHAT_TO_WRITE}")
    for field, name in names.items():
        if field not in FIELDS:
            nearest = get_close_matches(str(field), FIELDS, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"a field is not known: write one of {', '.join(FIELDS)}{hint}")
        plain = name.replace(_UNIT, REQUESTS) if isinstance(name, str) else ""
        if not _NAME.fullmatch(plain):
            raise ConfigError(
                f"the name of {field} is not a header name: write at most 64 letters, digits and -"
            )
        if plain.lower() in _RESERVED or plain.lower().startswith("access-control-"):
            raise ConfigError(
                f"the name of {field} is {plain}, which has a meaning of its own: write another, "
                "such as X-RateLimit-Limit"
            )
    return _Names(tuple(names.items()))


def _part_names(parts: Sequence[HeaderFormat | _Names]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, _Names):
            yield from part.header_names()
        elif part is not HeaderFormat.NONE:
            yield from _DRAFT_NAMES


def _require_no_repetition(parts: Sequence[HeaderFormat | _Names], texts: Sequence[str]) -> None:
    """Check that each header has one value.

    Raises:
        ConfigError: Two formats have a header in common, or `none` is not alone.
    """
    if HeaderFormat.NONE in parts and len(parts) > 1:
        raise ConfigError("none is the format without headers: write it alone")
    seen: set[str] = set()
    for name in _part_names(parts):
        if name.lower() in seen:
            raise ConfigError(
                f"{', '.join(texts)} have the header {name} twice: write formats with different "
                "headers"
            )
        seen.add(name.lower())
