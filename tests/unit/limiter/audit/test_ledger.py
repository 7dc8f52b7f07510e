"""Ledgers: a limit that is kept has no overshoot, and an overshoot is found."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.algorithms import State, algorithm_for
from fleetlimit.core.charge import Adjustment
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US, Algorithm, Quota, rate_quota
from fleetlimit.limiter.audit.ledger import (
    INTERVAL_US,
    BacklogLedger,
    SampleRank,
    WindowLedger,
    creditable_refund,
    initial_allowance,
    interval_us,
    open_ledger,
    sample_rank,
)
from support.clock import EPOCH_US
from support.stores import MINUTE_US, quota_of

AUDITED = [each for each in Algorithm if each is not Algorithm.CONCURRENCY]
EACH_ALGORITHM = pytest.mark.parametrize("algorithm", AUDITED)
MAX_UNITS = 12
PERIODS_US = [
    *(ms * MILLISECOND_US for ms in (1, 700, 1_000, 2_500, 5_000, 7_001, 10_000, 15_000)),
    *(seconds * SECOND_US for seconds in (20, 25, 35, 60, 61)),
]


@dataclass(slots=True)
class History:
    """Usage of a bucket.

    Args:
        units: Units by interval.
        first_uses: First time of use and units spent before it, by interval.
        state: State of the bucket at the end.
        now_us: Store time at the end.
    """

    units: Counter[int] = field(default_factory=Counter)
    first_uses: dict[int, tuple[int, int]] = field(default_factory=dict)
    state: State = None
    now_us: int = EPOCH_US

    @property
    def first(self) -> int:
        """Return the first non-empty interval."""
        return min(self.units, default=0)


def quotas(algorithm: Algorithm) -> st.SearchStrategy[Quota]:
    """Generate quotas with periods shorter and longer than an interval, some of which fit badly."""

    def build(limit: int, burst: int, period_us: int) -> Quota:
        burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
        return Quota(algorithm, limit, period_us, burst)

    return st.builds(
        build, st.integers(1, MAX_UNITS), st.integers(1, MAX_UNITS), st.sampled_from(PERIODS_US)
    )


@st.composite
def histories(draw: st.DrawFn, quota: Quota, *, refunds: bool = True) -> History:
    """Run the algorithm over a schedule."""
    algorithm, retry_us, past = algorithm_for(quota.algorithm), 0, History()
    waits_us = st.one_of(
        st.just(-1),
        st.integers(0, 2 * quota.period_us),
        st.integers(0, 3 * INTERVAL_US),
        st.just(0),
    )
    spent: list[Adjustment] = []
    for wait_us, requested, refunds_units in draw(
        st.lists(st.tuples(waits_us, st.integers(0, MAX_UNITS), st.booleans()), max_size=50)
    ):
        past.now_us += retry_us if wait_us < 0 else wait_us
        interval = past.now_us // interval_us(quota)
        if refunds and refunds_units and spent:
            # A refund of units that were spent some time ago.
            back = spent.pop(draw(st.integers(0, len(spent) - 1)))
            past.state = algorithm.adjust(quota, past.state, past.now_us, back)
            past.units[interval] -= creditable_refund(
                quota, -back.delta, back.store_acquired_at_us, past.now_us
            )
        units = min(requested, quota.burst)
        status, after = algorithm.acquire(quota, past.state, past.now_us, units, "")
        retry_us = status.retry_after_us
        if status.allowed and units:
            past.state = after
            past.first_uses.setdefault(
                interval, (past.now_us, quota.burst - status.remaining - units)
            )
            past.units[interval] += units
            spent.append(Adjustment("", quota, -units, past.now_us, units))
    return past


def overshoot(quota: Quota, units_in: Mapping[int, int], first: int, before: int = 0) -> int:
    """Return the overshoot that a ledger finds from an interval on."""
    ledger, found = open_ledger(quota, first, before), 0
    for interval in range(first, max(units_in, default=first) + 1):
        ledger, more = ledger.close(interval, units_in.get(interval, 0))
        found += more
    return found


@EACH_ALGORITHM
@given(data=st.data())
def test_ledger_of_a_kept_limit_has_no_overshoot(algorithm: Algorithm, data: st.DataObject) -> None:
    """Under any schedule of charges and refunds, and from any first interval."""
    quota = data.draw(quotas(algorithm))
    past = data.draw(histories(quota))
    for first, (_, before) in past.first_uses.items():
        assert overshoot(quota, past.units, first, before) == 0
    assert overshoot(quota, past.units, past.first) == 0


@EACH_ALGORITHM
@given(data=st.data(), extra=st.integers(1, 100))
def test_ledger_never_finds_more_than_the_overshoot(
    algorithm: Algorithm, extra: int, data: st.DataObject
) -> None:
    """With extra units admitted at one moment, at most these are found."""
    quota = data.draw(quotas(algorithm))
    past = data.draw(histories(quota))
    if past.units:
        past.units[data.draw(st.sampled_from(sorted(past.units)))] += extra
    assert 0 <= overshoot(quota, past.units, past.first) <= extra


@given(data=st.data(), extra=st.integers(0, 100))
def test_backlog_ledger_finds_units_above_a_spent_bucket(extra: int, data: st.DataObject) -> None:
    """Extra units after the last one are found, less two intervals' refill and one unit."""
    quota = data.draw(quotas(Algorithm.TOKEN_BUCKET))
    past = data.draw(histories(quota, refunds=False))
    status, _ = algorithm_for(quota.algorithm).acquire(quota, past.state, past.now_us, 0, "")
    left = status.remaining
    past.units[past.now_us // INTERVAL_US] += left + extra
    refill = -(-2 * INTERVAL_US * quota.limit // quota.period_us)
    assert extra - refill - 1 <= overshoot(quota, past.units, past.first) <= extra


@pytest.mark.parametrize(
    "algorithm", [Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW, Algorithm.SLIDING_LOG]
)
@pytest.mark.parametrize("period_us", [SECOND_US, 5 * SECOND_US, MINUTE_US, 86_400 * SECOND_US])
def test_window_ledger_finds_each_unit_above_a_full_window(
    algorithm: Algorithm, period_us: int
) -> None:
    """A window is exact: each unit above the limit is found."""
    quota = quota_of(algorithm, 10, period_us=period_us)
    first = EPOCH_US // interval_us(quota)
    most = 10 * max(1, interval_us(quota) // period_us)
    assert overshoot(quota, {first: most}, first) == 0
    assert overshoot(quota, {first: most + 1}, first) == 1
    assert overshoot(quota, {first: most + 7}, first) == 7


def test_window_ledger_of_a_log_is_exact_in_any_period() -> None:
    """A period that begins anywhere keeps the limit, and so does an aligned one."""
    quota = quota_of(Algorithm.SLIDING_LOG, 10, period_us=MINUTE_US)
    first = EPOCH_US // INTERVAL_US
    # Ten at 0:55, and ten more at 1:50: two aligned minutes of ten each, and 20 within a minute.
    assert overshoot(quota, {first + 11: 10, first + 22: 10}, first) == 10
    assert overshoot(quota, {first + 11: 10, first + 23: 10}, first) == 0
    window = quota_of(Algorithm.FIXED_WINDOW, 10, period_us=MINUTE_US)
    assert overshoot(window, {first + 11: 10, first + 22: 10}, first) == 0


def test_ledger_reports_an_overshoot_once() -> None:
    """Afterwards the ledger continues with a bucket that is just spent."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 60, burst=10)
    ledger, found = open_ledger(quota, 0, 0), []
    for interval, units in enumerate([10 + 5 + 4, 5, 5, 5 + 1]):
        ledger, more = ledger.close(interval, units)
        found.append(more)
    assert found == [4, 0, 0, 1]


def test_backlog_ledger_adds_up_fractions_of_a_unit() -> None:
    """A bucket that admits a little too much in each interval is found."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 11, burst=1, period_us=MINUTE_US)
    # 11/12 of a unit refill in each interval, and one unit is admitted.
    ledger, found = open_ledger(quota, 0, 0), 0
    for interval in range(60):
        ledger, more = ledger.close(interval, 1)
        found += more
    assert found == 60 // 12 - 1


def test_permitted_units_cover_a_kept_limit() -> None:
    """The initial allowance and each interval's units: a bucket's refill, a window's limit."""
    bucket = quota_of(Algorithm.TOKEN_BUCKET, 60, burst=10)
    assert (
        initial_allowance(bucket, 0),
        initial_allowance(bucket, 7),
        initial_allowance(bucket, 12),
    ) == (10, 3, 0)
    assert BacklogLedger(bucket, 0).permitted(0) == pytest.approx(5)
    window = quota_of(Algorithm.FIXED_WINDOW, 10)
    assert (initial_allowance(window, 0), initial_allowance(window, 7)) == (10, 3)
    ledger = WindowLedger(window, ((0, 7),))
    assert [ledger.permitted(interval) for interval in (0, 11, 12)] == [0, 0, 10]
    short = quota_of(Algorithm.SLIDING_WINDOW, 10, period_us=SECOND_US)
    assert (initial_allowance(short, 7), open_ledger(short, 0, 7).permitted(1)) == (50, 50)
    log = quota_of(Algorithm.SLIDING_LOG, 12, period_us=MINUTE_US)
    assert (initial_allowance(log, 3), open_ledger(log, 0, 3).permitted(1)) == (12, 1)


@pytest.mark.parametrize(
    ("algorithm", "seconds", "interval"),
    [
        (Algorithm.TOKEN_BUCKET, 7, 5),
        (Algorithm.FIXED_WINDOW, 60, 5),
        (Algorithm.FIXED_WINDOW, 1, 5),
        (Algorithm.FIXED_WINDOW, 7, 7),
        (Algorithm.SLIDING_WINDOW, 3, 6),
        (Algorithm.SLIDING_LOG, 86_400, 5),
    ],
)
def test_interval_us_divides_or_contains_windows(
    algorithm: Algorithm, seconds: int, interval: int
) -> None:
    """A window is a whole number of intervals, or an interval a whole number of windows."""
    quota = quota_of(algorithm, 10, period_us=seconds * SECOND_US)
    assert interval_us(quota) == interval * SECOND_US


def test_window_ledger_bounds_the_subwindows() -> None:
    """The number of subwindows is bounded for any period."""
    quota = quota_of(Algorithm.SLIDING_LOG, 10_000, period_us=86_400 * SECOND_US)
    ledger = open_ledger(quota, 0, 0)
    for interval in range(20_000):
        ledger, _ = ledger.close(interval, 1)
    assert isinstance(ledger, WindowLedger)
    assert len(ledger.sums) == 60


def test_sample_rank_depends_on_all_hashes() -> None:
    """The order depends on the hashes alone, and not on the first component only."""
    # The check value of CRC-32, as every process and release must have it.
    assert sample_rank("123456789") == SampleRank(0xCBF43926, "123456789")
    same_route = [f"routeroute123456:{'abcdefgh'[n]}aller" for n in range(8)]
    other = [f"otherother123456:{'abcdefgh'[n]}aller" for n in range(8)]
    ordered = sorted([*same_route, *other], key=sample_rank)
    assert ordered == sorted([*other, *reversed(same_route)], key=sample_rank)
    assert set(ordered[:8]) not in ({*same_route}, {*other})


def test_ledger_of_a_calendar_has_its_windows() -> None:
    """The limit is permitted again from the first interval of a month on, in its time zone."""
    quota = rate_quota("5/month", timezone="Europe/Berlin", anchor=15)
    assert quota.calendar is not None
    start_us, end_us = quota.calendar.window_at(EPOCH_US)
    assert interval_us(quota) == INTERVAL_US
    last = end_us // INTERVAL_US - 1
    ledger = open_ledger(quota, start_us // INTERVAL_US, 2)
    ledger, overshoot = ledger.close(last, 4)
    assert (overshoot, ledger.permitted(last), ledger.permitted(last + 1)) == (1, 0, 5)
    ledger, overshoot = ledger.close(last + 1, 5)
    assert overshoot == 0
    assert ledger.close(last + 2, 1)[1] == 1


def test_refund_of_a_calendar_is_creditable_within_the_window() -> None:
    """Units of a window are not units of the next one."""
    quota = rate_quota("5/month")
    assert quota.calendar is not None
    _, end_us = quota.calendar.window_at(EPOCH_US)
    assert creditable_refund(quota, 3, EPOCH_US, end_us - 1) == 3
    assert creditable_refund(quota, 3, EPOCH_US, end_us) == 0
