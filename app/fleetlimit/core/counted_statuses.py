"""Statuses of responses that count under a policy, as `count` of a policy states them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from fleetlimit.errors import ConfigError

ALL: Final = "all"
"""Word for a policy under which every admitted request counts."""
FAILURE: Final = "failure"
_STATUSES: Final = range(100, 600)
"""Statuses of RFC 9110, section 15."""
_FAILURES: Final = range(400, 600)
_RANGE: Final = re.compile(r"([1-5])xx", re.ASCII | re.IGNORECASE)
CountSpec = str | int | Sequence[str | int]
"""`all`, `failure`, a status such as 401, a class of statuses such as `5xx`, or a list of them."""


@dataclass(frozen=True, slots=True)
class CountedStatuses:
    """Statuses of responses that count under a policy.

    Args:
        statuses: The statuses.
        text: The statuses as the policy states them.
    """

    statuses: frozenset[int]
    text: str

    def __contains__(self, status: int) -> bool:
        return status in self.statuses


def parse_count(count: CountSpec | CountedStatuses) -> CountedStatuses | None:
    """Return the statuses that count; None if every admitted request counts.

    Raises:
        ConfigError: The value is none of those that `CountSpec` lists.
    """
    if isinstance(count, CountedStatuses):
        return count
    if isinstance(count, str | int) or not isinstance(count, Iterable):
        if count == ALL:
            return None
        entries: tuple[object, ...] = (count,)
    else:
        entries = tuple(count)
    if not entries:
        raise ConfigError("count is empty, so that no request would count: write count: failure")
    if ALL in entries:
        raise ConfigError("count has all beside other statuses: write all alone, or leave it out")
    statuses = frozenset(status for entry in entries for status in _parse_entry(entry))
    return CountedStatuses(statuses, "-".join(str(entry).lower() for entry in entries))


def _parse_entry(entry: object) -> Iterable[int]:
    """Return the statuses of an entry."""
    if entry == FAILURE:
        return _FAILURES
    if isinstance(entry, str):
        if found := _RANGE.fullmatch(entry):
            first = int(found[1]) * 100
            return range(first, first + 100)
    elif isinstance(entry, int) and not isinstance(entry, bool) and entry in _STATUSES:
        return (int(entry),)
    raise ConfigError(
        f"{entry!r} is not a status that can count: write all, failure, or a list such as "
        "[401, 403, 5xx]"
    )
