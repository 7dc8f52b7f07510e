"""Statuses of corrected buckets: what the bucket itself would answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.algorithms import algorithm_for
from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import BucketStatus, correct_status
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota, rate_quota

NOW_US = 1_000 * SECOND_US


def corrected(
    quota: Quota, earlier: int, units: int, delta: int, later_us: int = 0
) -> tuple[BucketStatus, BucketStatus]:
    """Return the corrected status of a charge, and the answer of its bucket."""
    module = algorithm_for(quota.algorithm)
    state = None
    if earlier:
        _, state = module.acquire(quota, state, NOW_US, earlier, "earlier")
    status, state = module.acquire(quota, state, NOW_US, units, "lease")
    assert status.allowed
    adjustment = Charge("key", quota, units, "lease").adjustment(delta, NOW_US)
    state = module.adjust(quota, state, NOW_US + later_us, adjustment)
    answer, _ = module.acquire(quota, state, NOW_US + later_us, 0, "")
    return correct_status(status, quota, delta, NOW_US), answer


@given(
    algorithm=st.sampled_from(Algorithm),
    limit=st.integers(1, 1_000),
    data=st.data(),
    period_us=st.integers(1, 100_000).map(lambda ms: ms * 1_000),
)
def test_corrected_status_has_the_remaining_units_of_the_bucket(
    algorithm: Algorithm, limit: int, period_us: int, data: st.DataObject
) -> None:
    """A refund is exact for every algorithm, as is an additional cost of a rate."""
    quota = Quota(algorithm, limit, period_us, limit)
    units = data.draw(st.integers(1, limit))
    earlier = data.draw(st.integers(0, limit - units))
    largest = 0 if algorithm is Algorithm.CONCURRENCY else limit
    delta = data.draw(st.integers(-units, largest).filter(bool))
    status, answer = corrected(quota, earlier, units, delta)
    assert status.remaining == answer.remaining
    assert bool(status.next_unit_after_us) == (answer.remaining < quota.burst)
    if algorithm is Algorithm.TOKEN_BUCKET:
        assert abs(status.reset_after_us - answer.reset_after_us) <= 2
        assert abs(status.next_unit_after_us - answer.next_unit_after_us) <= 2


@given(
    algorithm=st.sampled_from([each for each in Algorithm if each is not Algorithm.CONCURRENCY]),
    later_us=st.integers(0, 120 * SECOND_US),
    delta=st.integers(-40, 40).filter(bool),
)
def test_corrected_status_states_no_more_than_the_bucket_has(
    algorithm: Algorithm, later_us: int, delta: int
) -> None:
    """A late correction finds at least the units that the corrected status states."""
    quota = Quota(algorithm, 100, 60 * SECOND_US, 100)
    status, answer = corrected(quota, 30, 40, delta, later_us)
    assert status.remaining <= answer.remaining


@pytest.mark.parametrize("algorithm", [Algorithm.TOKEN_BUCKET, Algorithm.FIXED_WINDOW])
def test_corrected_status_of_a_full_bucket_has_times(algorithm: Algorithm) -> None:
    """A bucket from which a cost of 0 was spent is full; an additional cost gives it times."""
    quota = Quota(algorithm, 10, 60 * SECOND_US, 10)
    full = BucketStatus(
        allowed=True, remaining=10, retry_after_us=0, next_unit_after_us=0, reset_after_us=0
    )
    status = correct_status(full, quota, 1, NOW_US)
    assert (status.remaining, status.retry_after_us) == (9, 0)
    assert 0 < status.next_unit_after_us <= status.reset_after_us <= 60 * SECOND_US


def test_corrected_status_of_a_calendar_has_the_end_of_the_window() -> None:
    """A correction of a request without a cost opens the window: it resets at the month's end."""
    quota = rate_quota("10/month", timezone="Europe/Berlin", anchor=15)
    status, answer = corrected(quota, 0, 0, 3)
    assert (status.remaining, status.reset_after_us) == (7, answer.reset_after_us)
    assert status.next_unit_after_us == answer.next_unit_after_us > 0
