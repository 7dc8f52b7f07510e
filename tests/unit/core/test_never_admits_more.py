"""Properties of all algorithms: the admitted cost keeps the bound, and every wait is exact."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.algorithms import State, algorithm_for
from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Algorithm, Quota
from support.admitted import (
    Admitted,
    assert_concurrency,
    assert_fixed_window,
    assert_sliding_log,
    assert_sliding_window,
    assert_token_bucket,
)
from support.calendars import calendar_quotas
from support.clock import EPOCH_US

Steps = list[tuple[int, int]]
"""Microseconds to wait and units to request; a negative wait is exactly `retry_after_us`."""

MAX_UNITS = 12


def schedules(period_us: int) -> st.SearchStrategy[Steps]:
    """Generate schedules around the boundaries of a period."""
    wait = st.one_of(
        st.just(-1), st.just(0), st.integers(0, 3 * period_us), st.sampled_from([1, period_us])
    )
    return st.lists(st.tuples(wait, st.integers(0, MAX_UNITS)), max_size=60)


def quotas(algorithm: Algorithm) -> st.SearchStrategy[Quota]:
    """Generate quotas with periods of a few milliseconds."""

    def build(limit: int, burst: int, period_ms: int) -> Quota:
        burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
        return Quota(algorithm, limit, period_ms * 1_000, burst)

    size = st.integers(1, MAX_UNITS)
    found = st.builds(build, size, size, st.integers(1, 9))
    if algorithm is Algorithm.FIXED_WINDOW:
        return st.one_of(found, calendar_quotas(size))
    return found


def admit(quota: Quota, steps: Steps) -> Admitted:
    """Run a schedule, and return the admitted units and their times."""
    algorithm, state, now_us, admitted = algorithm_for(quota.algorithm), None, EPOCH_US, []
    retry_us = 0
    for number, (wait_us, requested) in enumerate(steps):
        now_us += retry_us if wait_us < 0 else wait_us
        units = min(requested, quota.burst)
        status, after = algorithm.acquire(quota, state, now_us, units, f"lease{number}")
        retry_us = status.retry_after_us
        if status.allowed:
            state = after
            admitted.append((now_us, units))
    return admitted


@pytest.mark.parametrize(
    ("algorithm", "keeps"),
    [
        (Algorithm.TOKEN_BUCKET, assert_token_bucket),
        (Algorithm.FIXED_WINDOW, assert_fixed_window),
        (Algorithm.SLIDING_WINDOW, assert_sliding_window),
        (Algorithm.SLIDING_LOG, assert_sliding_log),
        (Algorithm.CONCURRENCY, assert_concurrency),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@given(data=st.data())
def test_no_schedule_admits_more_than_the_policy(
    algorithm: Algorithm, keeps: Callable[[Quota, Admitted], None], data: st.DataObject
) -> None:
    """Each algorithm keeps its stated bound under every schedule."""
    quota = data.draw(quotas(algorithm))
    keeps(quota, admit(quota, data.draw(schedules(quota.period_us))))


def states(quota: Quota, steps: Steps, deltas: list[int]) -> Iterator[tuple[int, int, State]]:
    """Run a schedule with adjustments; yield time, requested units and the state before."""
    algorithm, state, now_us, retry_us = algorithm_for(quota.algorithm), None, EPOCH_US, 0
    spent: Adjustment | None = None
    for number, (wait_us, requested) in enumerate(steps):
        now_us += retry_us if wait_us < 0 else wait_us
        if spent:
            state, spent = algorithm.adjust(quota, state, now_us, spent), None
        units, lease = min(requested, quota.burst), f"lease{number}"
        yield now_us, units, state
        status, after = algorithm.acquire(quota, state, now_us, units, lease)
        retry_us = status.retry_after_us
        if status.allowed and units:
            state = after
            spent = Adjustment("", quota, deltas[number % len(deltas)], now_us, units, lease)


EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", list(Algorithm))
DELTAS = st.lists(st.integers(-3, 3), min_size=1, max_size=5)


@EVERY_ALGORITHM
@given(data=st.data())
def test_charge_fits_exactly_at_retry_after(algorithm: Algorithm, data: st.DataObject) -> None:
    """At `retry_after_us` the same charge fits, and one microsecond before it does not."""
    quota = data.draw(quotas(algorithm))
    acquire = algorithm_for(algorithm).acquire
    for now_us, units, state in states(
        quota, data.draw(schedules(quota.period_us)), data.draw(DELTAS)
    ):
        status, _ = acquire(quota, state, now_us, units, "waiting")
        if not status.allowed:
            assert acquire(quota, state, now_us + status.retry_after_us, units, "waiting")[
                0
            ].allowed
            assert not acquire(quota, state, now_us + status.retry_after_us - 1, units, "waiting")[
                0
            ].allowed


@EVERY_ALGORITHM
@given(data=st.data())
def test_next_unit_and_reset_times_are_exact(algorithm: Algorithm, data: st.DataObject) -> None:
    """`next_unit_after_us` and `reset_after_us` are the first times with more, and all, units."""
    quota = data.draw(quotas(algorithm))

    def remaining(state: State, at_us: int) -> int:
        status: BucketStatus = algorithm_for(algorithm).acquire(quota, state, at_us, 0, "")[0]
        return status.remaining

    for now_us, _, state in states(quota, data.draw(schedules(quota.period_us)), data.draw(DELTAS)):
        status, _ = algorithm_for(algorithm).acquire(quota, state, now_us, 0, "")
        assert remaining(state, now_us + status.reset_after_us) == quota.burst
        if status.next_unit_after_us:
            assert remaining(state, now_us + status.next_unit_after_us) > status.remaining
            assert remaining(state, now_us + status.next_unit_after_us - 1) == status.remaining
        else:
            assert status.remaining == quota.burst


@EVERY_ALGORITHM
@given(data=st.data())
def test_expired_state_equals_no_state(algorithm: Algorithm, data: st.DataObject) -> None:
    """From `expires_at_us` on a bucket decides as if it had never been used."""
    quota = data.draw(quotas(algorithm))
    module = algorithm_for(algorithm)
    assert module.expires_at_us(quota, None) is None
    for _, units, state in states(quota, data.draw(schedules(quota.period_us)), data.draw(DELTAS)):
        if state is not None:
            end_us = module.expires_at_us(quota, state)
            assert end_us is not None
            expired = module.acquire(quota, state, end_us, units, "lease")
            assert expired == module.acquire(quota, None, end_us, units, "lease")
