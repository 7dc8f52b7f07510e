"""Kept units of a token bucket stay within its bound, whenever reservations are refunded."""

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import MILLISECOND_US, Algorithm, Quota
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock

KEY = "{caller}:policy:limit"


@dataclass(slots=True)
class Kept:
    """Units of one reservation that were not refunded."""

    at_us: int
    reserved: int
    units: int
    corrected: bool = False


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 6)),
        st.tuples(st.just("keep"), st.integers(0, 6)),
        st.tuples(st.just("wait"), st.integers(1, 8 * MILLISECOND_US)),
    ),
    min_size=5,
    max_size=60,
)


async def run(quota: Quota, schedule: list[Step]) -> list[Kept]:
    """Reserve and correct reservations in any order, and return what each one kept."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic_us)
    reservations: list[Kept] = []
    for action, number in schedule:
        open_ones = [each for each in reservations if not each.corrected]
        if action == "wait":
            clock.advance_us(number)
        elif action == "reserve":
            units = min(number, quota.burst)
            result = await store.acquire([Charge(KEY, quota, units)])
            if result.spent:
                reservations.append(Kept(result.store_now_us, units, units))
        elif open_ones:
            # The oldest one, whose refund is the latest.
            oldest = open_ones[0]
            oldest.corrected, oldest.units = True, min(number, oldest.reserved)
            spent = Charge(KEY, quota, oldest.reserved)
            delta = oldest.units - oldest.reserved
            await store.adjust([spent.adjustment(delta, oldest.at_us)])
    return reservations


@settings(max_examples=400)
@given(limit=st.integers(1, 12), burst=st.integers(1, 12), schedule=STEPS)
def test_kept_units_stay_within_burst_and_rate(
    limit: int, burst: int, schedule: list[Step]
) -> None:
    """In no interval of length t are more than burst + rate * t units kept."""
    quota = Quota(Algorithm.TOKEN_BUCKET, limit, 10 * MILLISECOND_US, burst)
    kept = asyncio.run(run(quota, schedule))
    for first, start in enumerate(kept):
        total = 0
        for end in kept[first:]:
            total += end.units
            elapsed_us = end.at_us - start.at_us
            assert total * quota.period_us <= burst * quota.period_us + elapsed_us * limit
