"""Sliding log: every spending is remembered for one period; exact, at one entry each.

In any interval of one period at most `limit` units pass. Memory grows with the limit, which is why
a log's limit is bounded.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota

Entry = tuple[int, int]
"""When units were spent, in microseconds since the epoch, and how many."""


@dataclass(frozen=True, slots=True)
class Log:
    """Entries, oldest first."""

    entries: tuple[Entry, ...]

    @property
    def used(self) -> int:
        """Units spent within the last period."""
        return sum(units for _, units in self.entries)


def _unexpired(quota: Quota, state: Log | None, now_us: int) -> Log:
    if state is None:
        return Log(())
    since_us = now_us - quota.period_us
    return Log(tuple(entry for entry in state.entries if entry[0] > since_us))


def _wait_us(quota: Quota, log: Log, now_us: int, missing: int) -> int:
    """Return how long until `missing` of the spent units are forgotten."""
    for at_us, units in log.entries:
        missing -= units
        if missing <= 0:
            return at_us + quota.period_us - now_us
    return 0


def take(
    quota: Quota, state: Log | None, now_us: int, units: int, _lease: str
) -> tuple[BucketStatus, Log | None]:
    """Spend units if the last period leaves room for them."""
    log = _unexpired(quota, state, now_us)
    used = log.used
    fits = used + units <= quota.limit
    retry_us = 0 if fits else _wait_us(quota, log, now_us, used + units - quota.limit)
    if fits and units:
        # A clock that went back must not put an entry before the last one.
        at_us = max(now_us, log.entries[-1][0]) if log.entries else now_us
        log = Log((*log.entries, (at_us, units)))
        used += units
    entries = log.entries
    remaining = max(0, quota.limit - used)
    verdict = BucketStatus(
        allowed=fits,
        remaining=remaining,
        retry_after_us=retry_us,
        next_unit_after_us=_wait_us(quota, log, now_us, used - quota.limit + remaining + 1),
        reset_after_us=entries[-1][0] + quota.period_us - now_us if entries else 0,
    )
    return verdict, log if entries else None


def settle(quota: Quota, state: Log | None, now_us: int, adjustment: Adjustment) -> Log | None:
    """Give back units of the entry of that time, or add an entry for more."""
    log = _unexpired(quota, state, now_us)
    entries = list(log.entries)
    if adjustment.delta > 0:
        at_us = max(now_us, entries[-1][0]) if entries else now_us
        entries.append((at_us, adjustment.delta))
    for index, (at_us, units) in enumerate(entries):
        if adjustment.delta < 0 and at_us == adjustment.acquired_at_us:
            entries[index] = (at_us, max(0, units + adjustment.delta))
            break
    kept = tuple(entry for entry in entries if entry[1])
    return Log(kept) if kept else None


def expires_us(quota: Quota, state: Log | None) -> int | None:
    """Return when the last entry is forgotten."""
    return None if state is None else state.entries[-1][0] + quota.period_us
