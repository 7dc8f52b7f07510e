"""Token bucket, as the generic cell rate algorithm (GCRA): the default.

The state is one time: when the bucket will be full again (the theoretical arrival time of ITU-T
I.371, annex A). A bucket in debt by `d` holds `burst - d / T` units, T being the time of one unit.
In any interval of length t at most `burst + rate * t` units pass.

Times are kept in ticks of 1/limit microsecond, so that T = period/limit is the whole number
`period_us` of ticks and nothing is ever rounded.
"""

from dataclasses import dataclass

from fleetlimit.core.charge import Settlement
from fleetlimit.core.decision import Verdict
from fleetlimit.core.quota import Quota


@dataclass(frozen=True, slots=True)
class Full:
    """When the bucket will be full: `whole` microseconds since the epoch and `part`/limit more."""

    whole: int
    part: int = 0


def _debt(quota: Quota, state: Full | None, now_us: int) -> int:
    """Return the missing units as ticks until they are back."""
    if state is None:
        return 0
    # A state written under another limit may hold a part that this limit does not have.
    part = min(quota.limit, state.part)
    return max(0, (state.whole - now_us) * quota.limit + part)


def _full(quota: Quota, now_us: int, debt: int) -> Full | None:
    if debt == 0:
        return None
    whole, part = divmod(debt, quota.limit)
    return Full(now_us + whole, part)


def _us(quota: Quota, ticks: int) -> int:
    return max(0, -(-ticks // quota.limit))


def take(
    quota: Quota, state: Full | None, now_us: int, units: int, _lease: str
) -> tuple[Verdict, Full | None]:
    """Spend units if the bucket holds them."""
    debt = _debt(quota, state, now_us)
    size = quota.burst * quota.period_us
    retry = debt + units * quota.period_us - size
    fits = retry <= 0
    if fits:
        debt += units * quota.period_us
    remaining = max(0, size - debt) // quota.period_us
    verdict = Verdict(
        fits=fits,
        remaining=remaining,
        retry_us=_us(quota, retry),
        next_us=0
        if remaining == quota.burst
        else _us(quota, debt - (quota.burst - remaining - 1) * quota.period_us),
        reset_us=_us(quota, debt),
    )
    return verdict, _full(quota, now_us, debt)


def settle(quota: Quota, state: Full | None, now_us: int, settlement: Settlement) -> Full | None:
    """Give back or spend units; what is given back never makes the bucket more than full."""
    debt = _debt(quota, state, now_us) + settlement.delta * quota.period_us
    # What is spent without asking makes no debt beyond two bursts: it must not lock out for long.
    return _full(quota, now_us, max(0, min(debt, 2 * quota.burst * quota.period_us)))


def expires_us(_quota: Quota, state: Full | None) -> int | None:
    """Return when the bucket is full."""
    return None if state is None else state.whole + (1 if state.part else 0)
