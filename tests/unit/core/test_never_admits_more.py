"""No schedule makes the admitted cost exceed the policy, and every wait that is told is true."""

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
from support.clock import EPOCH_US

Steps = list[tuple[int, int]]
"""Microseconds to wait and units to ask for; a negative wait asks after exactly `retry_us`."""

MAX_UNITS = 12


def schedules(period_us: int) -> st.SearchStrategy[Steps]:
    """Generate schedules that stay around the boundaries of a period."""
    wait = st.one_of(
        st.just(-1), st.just(0), st.integers(0, 3 * period_us), st.sampled_from([1, period_us])
    )
    return st.lists(st.tuples(wait, st.integers(0, MAX_UNITS)), max_size=60)


def quotas(algorithm: Algorithm) -> st.SearchStrategy[Quota]:
    """Generate quotas over periods of a few milliseconds."""

    def build(limit: int, burst: int, period_ms: int) -> Quota:
        burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
        return Quota(algorithm, limit, period_ms * 1_000, burst)

    return st.builds(build, st.integers(1, MAX_UNITS), st.integers(1, MAX_UNITS), st.integers(1, 9))


def admit(quota: Quota, steps: Steps) -> Admitted:
    """Run a schedule and return what was admitted, and when."""
    algorithm, state, now_us, admitted = algorithm_for(quota.algorithm), None, EPOCH_US, []
    retry_us = 0
    for number, (wait_us, asked) in enumerate(steps):
        now_us += retry_us if wait_us < 0 else wait_us
        units = min(asked, quota.burst)
        verdict, after = algorithm.acquire(quota, state, now_us, units, f"lease{number}")
        retry_us = verdict.retry_after_us
        if verdict.allowed:
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
    """Whatever is asked and whenever, each algorithm keeps the bound that it states."""
    quota = data.draw(quotas(algorithm))
    keeps(quota, admit(quota, data.draw(schedules(quota.period_us))))


def states(quota: Quota, steps: Steps, deltas: list[int]) -> Iterator[tuple[int, int, State]]:
    """Run a schedule with later corrections; yield time, units asked and the state before."""
    algorithm, state, now_us, retry_us = algorithm_for(quota.algorithm), None, EPOCH_US, 0
    spent: Adjustment | None = None
    for number, (wait_us, asked) in enumerate(steps):
        now_us += retry_us if wait_us < 0 else wait_us
        if spent:
            state, spent = algorithm.adjust(quota, state, now_us, spent), None
        units, lease = min(asked, quota.burst), f"lease{number}"
        yield now_us, units, state
        verdict, after = algorithm.acquire(quota, state, now_us, units, lease)
        retry_us = verdict.retry_after_us
        if verdict.allowed and units:
            state = after
            spent = Adjustment("", quota, deltas[number % len(deltas)], now_us, units, lease)


EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", list(Algorithm))
DELTAS = st.lists(st.integers(-3, 3), min_size=1, max_size=5)


@EVERY_ALGORITHM
@given(data=st.data())
def test_waiting_exactly_retry_lets_in(algorithm: Algorithm, data: st.DataObject) -> None:
    """At `retry_us` the same charge fits, and one microsecond before it does not."""
    quota = data.draw(quotas(algorithm))
    take = algorithm_for(algorithm).acquire
    for now_us, units, state in states(
        quota, data.draw(schedules(quota.period_us)), data.draw(DELTAS)
    ):
        verdict, _ = take(quota, state, now_us, units, "waiting")
        if not verdict.allowed:
            assert take(quota, state, now_us + verdict.retry_after_us, units, "waiting")[0].allowed
            assert not take(quota, state, now_us + verdict.retry_after_us - 1, units, "waiting")[
                0
            ].allowed


@EVERY_ALGORITHM
@given(data=st.data())
def test_next_and_reset_are_the_first_such_times(algorithm: Algorithm, data: st.DataObject) -> None:
    """More than `remaining` is there first at `next_us`, and everything first at `reset_us`."""
    quota = data.draw(quotas(algorithm))

    def remaining(state: State, at_us: int) -> int:
        verdict: BucketStatus = algorithm_for(algorithm).acquire(quota, state, at_us, 0, "")[0]
        return verdict.remaining

    for now_us, _, state in states(quota, data.draw(schedules(quota.period_us)), data.draw(DELTAS)):
        verdict, _ = algorithm_for(algorithm).acquire(quota, state, now_us, 0, "")
        assert remaining(state, now_us + verdict.reset_after_us) == quota.burst
        if verdict.next_unit_after_us:
            assert remaining(state, now_us + verdict.next_unit_after_us) > verdict.remaining
            assert remaining(state, now_us + verdict.next_unit_after_us - 1) == verdict.remaining
        else:
            assert verdict.remaining == quota.burst


@EVERY_ALGORITHM
@given(data=st.data())
def test_expired_state_says_no_more_than_none(algorithm: Algorithm, data: st.DataObject) -> None:
    """From `expires_us` on a bucket decides as if it had never been used."""
    quota = data.draw(quotas(algorithm))
    module = algorithm_for(algorithm)
    assert module.expires_at_us(quota, None) is None
    for _, units, state in states(quota, data.draw(schedules(quota.period_us)), data.draw(DELTAS)):
        if state is not None:
            end_us = module.expires_at_us(quota, state)
            assert end_us is not None
            expired = module.acquire(quota, state, end_us, units, "lease")
            assert expired == module.acquire(quota, None, end_us, units, "lease")
