"""Token bucket, implemented as the generic cell rate algorithm (GCRA); the default algorithm.

The state is the theoretical arrival time (TAT, ITU-T I.371, annex A), at which the bucket will be
full, and the time at which it was last full, which refunds need. A bucket with a debt of `d` holds
`burst - d / T` units; `T` is the refill time of one unit. At most `burst + rate * t` units are
admitted in any interval of length `t`.

Times are computed in ticks of 1/limit microsecond. `T = period/limit` is then the integer
`period_us`, and nothing is rounded.
"""

from dataclasses import dataclass, replace

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class GcraState:
    """State of a bucket that is not full.

    Args:
        store_tat_us: Theoretical arrival time, in whole microseconds.
        tat_fraction: Fraction of a microsecond to add to it, in units of 1/limit.
        store_born_at_us: Store time of the first charge since the bucket was full.
        store_ahead_until_us: Latest store time until which units may be used that were spent ahead.
    """

    store_tat_us: int
    tat_fraction: int
    store_born_at_us: int
    store_ahead_until_us: int = 0


def _debt_ticks(quota: Quota, state: GcraState | None, now_us: int) -> int:
    """Return the ticks until the missing units are refilled."""
    if state is None:
        return 0
    # The state may have been written under a larger limit.
    fraction = min(quota.limit, state.tat_fraction)
    return max(0, (state.store_tat_us - now_us) * quota.limit + fraction)


def _max_debt_ticks(quota: Quota) -> int:
    return 2 * quota.burst * quota.period_us


def bounded(quota: Quota, state: GcraState, now_us: int) -> GcraState:
    """Return the state with a debt of at most two bursts.

    A debt is larger after the limit was lowered or the store's clock went back. Without the bound,
    callers would be denied until the time that the old limit or the old clock meant.
    """
    if _debt_ticks(quota, state, now_us) <= _max_debt_ticks(quota):
        return state
    whole, fraction = divmod(_max_debt_ticks(quota), quota.limit)
    return replace(state, store_tat_us=now_us + whole, tat_fraction=fraction)


def _with_debt(
    quota: Quota,
    state: GcraState | None,
    now_us: int,
    before: int,
    after: int,
    *,
    ahead_until_us: int = 0,
) -> GcraState | None:
    """Return the state after a change of its debt, in ticks."""
    if after == 0:
        return None
    whole, fraction = divmod(after, quota.limit)
    if state is None or before == 0:
        return GcraState(now_us + whole, fraction, now_us, ahead_until_us)
    ahead_until_us = max(ahead_until_us, state.store_ahead_until_us)
    return GcraState(now_us + whole, fraction, state.store_born_at_us, ahead_until_us)


def _ticks_to_us(quota: Quota, ticks: int) -> int:
    return max(0, -(-ticks // quota.limit))


def acquire(
    quota: Quota, state: GcraState | None, now_us: int, units: int, option: str
) -> tuple[BucketStatus, GcraState | None]:
    """Spend units if the bucket holds them.

    Units that may be used until a later time are spent as if that time had come: the bucket gains
    no unit before it. So it never has more than one from which each unit is spent at its use.
    """
    before = debt = _debt_ticks(quota, state, now_us)
    capacity = quota.burst * quota.period_us
    ahead_us = int(option) if option.isdecimal() and units else 0
    after = max(debt, ahead_us * quota.limit) + units * quota.period_us
    excess = after - capacity
    allowed = excess <= 0
    if allowed:
        debt = after
    remaining = max(0, capacity - debt) // quota.period_us
    status = BucketStatus(
        allowed=allowed,
        remaining=remaining,
        retry_after_us=_ticks_to_us(quota, excess),
        next_unit_after_us=0
        if remaining == quota.burst
        else _ticks_to_us(quota, debt - (quota.burst - remaining - 1) * quota.period_us),
        reset_after_us=_ticks_to_us(quota, debt),
    )
    ahead_until_us = now_us + ahead_us if ahead_us else 0
    return status, _with_debt(quota, state, now_us, before, debt, ahead_until_us=ahead_until_us)


def adjust(
    quota: Quota, state: GcraState | None, now_us: int, adjustment: Adjustment
) -> GcraState | None:
    """Refund or spend units; a refund never fills the bucket above its capacity.

    A refund returns no more than the part of its charge that has not refilled since. Otherwise the
    units would come back twice, and more than `burst + rate * t` could be spent and kept. For the
    same reason nothing is refunded to a bucket that is younger than the charge, because it was
    reset or lost in between.
    """
    debt = _debt_ticks(quota, state, now_us)
    ticks = adjustment.delta * quota.period_us
    if ticks < 0:
        if state is None or adjustment.store_acquired_at_us < state.store_born_at_us:
            return state
        until_us = max(now_us, state.store_ahead_until_us)
        elapsed_us = max(0, until_us - adjustment.store_acquired_at_us)
        unfilled = max(0, adjustment.units * quota.period_us - elapsed_us * quota.limit)
        return _with_debt(quota, state, now_us, debt, max(0, debt - min(-ticks, unfilled)))
    # Unconditional charges stop at a debt of two bursts, so that no caller is denied for long.
    return _with_debt(quota, state, now_us, debt, min(debt + ticks, _max_debt_ticks(quota)))


def expires_at_us(_quota: Quota, state: GcraState | None) -> int | None:
    """Return when the bucket is full."""
    return None if state is None else state.store_tat_us + (1 if state.tat_fraction else 0)
