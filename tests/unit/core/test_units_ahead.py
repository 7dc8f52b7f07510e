"""Units that may be used later: each use fits a bucket that is spent only then."""

import heapq
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleetlimit.core.algorithms import State, token_bucket
from fleetlimit.core.charge import Adjustment
from fleetlimit.core.quota import Algorithm, Quota
from support.clock import EPOCH_US

MAX_UNITS = 12


@dataclass(frozen=True, slots=True)
class Acquired:
    """Units that are acquired at once, and their uses.

    Args:
        at_us: Microseconds after the start.
        units: Units of the charge.
        ahead_us: Microseconds in which they may be used; 0 for all of them at once.
        uses: Time of the use of each unit, as a fraction of `ahead_us`; further units are refunded.
        refund_us: Microseconds from the last use to the refund.
    """

    at_us: int
    units: int
    ahead_us: int
    uses: tuple[float, ...]
    refund_us: int


def quotas() -> st.SearchStrategy[Quota]:
    """Generate token buckets with periods of a few milliseconds."""
    size = st.integers(1, MAX_UNITS)
    return st.builds(
        lambda limit, burst, period_ms: Quota(
            Algorithm.TOKEN_BUCKET, limit, period_ms * 1_000, burst
        ),
        size,
        size,
        st.integers(1, 9),
    )


ACQUIRED = st.builds(
    Acquired,
    st.integers(0, 30_000),
    st.integers(1, MAX_UNITS),
    st.one_of(st.just(0), st.integers(0, 10_000)),
    st.lists(st.sampled_from([0.0, 0.3, 1.0]), max_size=MAX_UNITS).map(tuple),
    st.one_of(st.just(0), st.integers(0, 10_000)),
)


@settings(max_examples=500)
@given(quota=quotas(), schedule=st.lists(ACQUIRED, min_size=2, max_size=12))
@example(
    # A full bucket: five units are used when it would have refilled them.
    quota=Quota(Algorithm.TOKEN_BUCKET, 10, 10_000, 10),
    schedule=[Acquired(0, 5, 4_900, (1.0,) * 5, 0), Acquired(4_900, 10, 0, (), 0)],
)
def test_each_use_fits_a_bucket_that_is_spent_at_the_use(
    quota: Quota, schedule: list[Acquired]
) -> None:
    """The limit holds in every interval, because it holds for the units at their uses."""
    assert_each_use_fits(quota, schedule)


@pytest.mark.parametrize(
    "schedule",
    [
        # The second charge is spent 5 ms ahead, which includes the 3 ms of the first one.
        [
            Acquired(0, 3, 1, (), 100),
            Acquired(50, 5, 5_000, (1.0,) * 5, 0),
            Acquired(5_050, 7, 0, (), 0),
        ],
        # The debt of the first charge is above the 2 ms, so the second one is not spent ahead.
        [
            Acquired(0, 3, 1, (), 100),
            Acquired(0, 2, 2_000, (1.0,) * 2, 0),
            Acquired(2_000, 9, 0, (), 0),
        ],
    ],
    ids=["ahead_above_the_debt", "ahead_below_the_debt"],
)
def test_refund_of_an_earlier_charge_leaves_units_ahead(schedule: list[Acquired]) -> None:
    """A refund returns nothing that a later charge was spent ahead for."""
    assert_each_use_fits(Quota(Algorithm.TOKEN_BUCKET, 10, 10_000, 10), schedule)


def assert_each_use_fits(quota: Quota, schedule: list[Acquired]) -> None:
    """Assert that a bucket that is spent at each use permits all uses."""
    exact: State = None
    for at_us, units in admitted(quota, schedule):
        status, exact = token_bucket.acquire(quota, exact, at_us, units, "")
        assert status.allowed


def admitted(quota: Quota, schedule: list[Acquired]) -> list[tuple[int, int]]:
    """Return the units that a bucket admits, and the times of their uses."""
    order = count()
    events: list[tuple[int, int, Acquired | Adjustment]] = [
        (EPOCH_US + each.at_us, next(order), each) for each in schedule
    ]
    heapq.heapify(events)
    state: State = None
    uses: list[tuple[int, int]] = []
    while events:
        now_us, _, event = heapq.heappop(events)
        if isinstance(event, Adjustment):
            state = token_bucket.adjust(quota, state, now_us, event)
            continue
        ahead = str(event.ahead_us) if event.ahead_us else ""
        status, after = token_bucket.acquire(quota, state, now_us, event.units, ahead)
        if not status.allowed:
            continue
        state = after
        if not event.ahead_us:
            uses.append((now_us, event.units))
            continue
        used = event.uses[: event.units]
        used_at_us = [now_us + int(share * event.ahead_us) for share in used]
        uses += [(at_us, 1) for at_us in used_at_us]
        unused = event.units - len(used)
        if unused:
            refund = Adjustment("", quota, -unused, now_us, event.units)
            refund_at_us = max([now_us, *used_at_us]) + event.refund_us
            heapq.heappush(events, (refund_at_us, next(order), refund))
    return sorted(uses)
