"""Sliding window log: one entry for each charge of the last period; exact.

At most `limit` units are admitted in any interval of one period. The size of a log grows with its
limit, so the limit is bounded by `MAX_ENTRIES`.
"""

from dataclasses import dataclass, replace

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Entry:
    """Units, and the store time at which they were spent."""

    store_spent_at_us: int
    units: int


@dataclass(frozen=True, slots=True)
class Log:
    """Entries, oldest first."""

    entries: tuple[Entry, ...]

    @property
    def used(self) -> int:
        """Units spent within the last period."""
        return sum(entry.units for entry in self.entries)


def _unexpired(quota: Quota, state: Log | None, now_us: int) -> Log:
    if state is None:
        return Log(())
    since_us = now_us - quota.period_us
    return Log(tuple(entry for entry in state.entries if entry.store_spent_at_us > since_us))


def _wait_us(quota: Quota, log: Log, now_us: int, missing: int) -> int:
    """Return the microseconds until entries of `missing` units have expired."""
    for entry in log.entries:
        missing -= entry.units
        if missing <= 0:
            return entry.store_spent_at_us + quota.period_us - now_us
    return 0


def _appended(log: Log, now_us: int, units: int) -> Log:
    """Return the log with units spent now; those of one time share an entry."""
    if not log.entries:
        return Log((Entry(now_us, units),))
    *earlier, last = log.entries
    # Entries stay in order after a step back of the clock.
    if now_us <= last.store_spent_at_us:
        return Log((*earlier, replace(last, units=last.units + units)))
    return Log((*log.entries, Entry(now_us, units)))


def bounded(quota: Quota, state: Log, now_us: int) -> Log:
    """Return the state with entries that expire within two periods.

    After the clock went back by more than a period, all units expire a period from now.
    """
    if state.entries[-1].store_spent_at_us <= now_us + quota.period_us:
        return state
    return Log((Entry(now_us, state.used),))


def acquire(
    quota: Quota, state: Log | None, now_us: int, units: int, _option: str
) -> tuple[BucketStatus, Log | None]:
    """Spend units if the last period permits them."""
    log = _unexpired(quota, state, now_us)
    used = log.used
    allowed = used + units <= quota.limit
    retry_after_us = 0 if allowed else _wait_us(quota, log, now_us, used + units - quota.limit)
    if allowed and units:
        log = _appended(log, now_us, units)
        used += units
    entries = log.entries
    remaining = max(0, quota.limit - used)
    status = BucketStatus(
        allowed=allowed,
        remaining=remaining,
        retry_after_us=retry_after_us,
        next_unit_after_us=_wait_us(quota, log, now_us, used - quota.limit + remaining + 1),
        reset_after_us=entries[-1].store_spent_at_us + quota.period_us - now_us if entries else 0,
    )
    return status, log if entries else None


def adjust(quota: Quota, state: Log | None, now_us: int, adjustment: Adjustment) -> Log | None:
    """Refund units of the entry of `store_acquired_at_us`, or add an entry for more units.

    Units spent without a check make at most twice the limit. Units that were spent while the clock
    was behind the last entry's time stand under that time, and cannot be refunded.
    """
    log = _unexpired(quota, state, now_us)
    if adjustment.delta > 0:
        units = min(adjustment.delta, 2 * quota.limit - log.used)
        if units > 0:
            log = _appended(log, now_us, units)
        return log if log.entries else None
    entries = list(log.entries)
    for index, entry in enumerate(entries):
        if entry.store_spent_at_us == adjustment.store_acquired_at_us:
            entries[index] = replace(entry, units=max(0, entry.units + adjustment.delta))
            break
    non_empty = tuple(entry for entry in entries if entry.units)
    return Log(non_empty) if non_empty else None


def expires_at_us(quota: Quota, state: Log | None) -> int | None:
    """Return when the last entry expires."""
    return None if state is None else state.entries[-1].store_spent_at_us + quota.period_us
