"""Token bucket, as the generic cell rate algorithm (GCRA): the default.

The state is one time: when the bucket will be full again (the theoretical arrival time of ITU-T
I.371, annex A). A bucket in debt by `d` holds `burst - d / T` units, T being the time of one unit.
In any interval of length t at most `burst + rate * t` units pass.

Times are kept in ticks of 1/limit microsecond, so that T = period/limit is the whole number
`period_us` of ticks and nothing is ever rounded.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class GcraState:
    """When the bucket will be full: `whole` microseconds since the epoch and `part`/limit more."""

    tat_us: int
    tat_fraction: int = 0


def _debt_ticks(quota: Quota, state: GcraState | None, now_us: int) -> int:
    """Return the missing units as ticks until they are back."""
    if state is None:
        return 0
    # A state written under another limit may hold a part that this limit does not have.
    part = min(quota.limit, state.tat_fraction)
    return max(0, (state.tat_us - now_us) * quota.limit + part)


def _state_of(quota: Quota, now_us: int, debt: int) -> GcraState | None:
    if debt == 0:
        return None
    whole, part = divmod(debt, quota.limit)
    return GcraState(now_us + whole, part)


def _ticks_to_us(quota: Quota, ticks: int) -> int:
    return max(0, -(-ticks // quota.limit))


def take(
    quota: Quota, state: GcraState | None, now_us: int, units: int, _lease: str
) -> tuple[BucketStatus, GcraState | None]:
    """Spend units if the bucket holds them."""
    debt = _debt_ticks(quota, state, now_us)
    size = quota.burst * quota.period_us
    retry = debt + units * quota.period_us - size
    fits = retry <= 0
    if fits:
        debt += units * quota.period_us
    remaining = max(0, size - debt) // quota.period_us
    verdict = BucketStatus(
        allowed=fits,
        remaining=remaining,
        retry_after_us=_ticks_to_us(quota, retry),
        next_unit_after_us=0
        if remaining == quota.burst
        else _ticks_to_us(quota, debt - (quota.burst - remaining - 1) * quota.period_us),
        reset_after_us=_ticks_to_us(quota, debt),
    )
    return verdict, _state_of(quota, now_us, debt)


def settle(
    quota: Quota, state: GcraState | None, now_us: int, adjustment: Adjustment
) -> GcraState | None:
    """Give back or spend units; what is given back never makes the bucket more than full."""
    debt = _debt_ticks(quota, state, now_us) + adjustment.delta * quota.period_us
    # What is spent without asking makes no debt beyond two bursts: it must not lock out for long.
    return _state_of(quota, now_us, max(0, min(debt, 2 * quota.burst * quota.period_us)))


def expires_us(_quota: Quota, state: GcraState | None) -> int | None:
    """Return when the bucket is full."""
    return None if state is None else state.tat_us + (1 if state.tat_fraction else 0)
