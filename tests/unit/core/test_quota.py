"""Quotas and limits: parsing, validation, and shares of replicas."""

import math
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from fleetlimit.core.calendars import Calendar
from fleetlimit.core.quota import (
    MAX_ENTRIES,
    MAX_HELD_UNITS,
    MAX_LIMIT,
    MAX_PERIOD_US,
    MAX_REFILL_US,
    MAX_SAFE_INTEGER,
    MILLISECOND_US,
    SECOND_US,
    Algorithm,
    Quota,
    check_cost,
    concurrency_quota,
    parse_rate,
    rate_quota,
)
from fleetlimit.errors import ConfigError, CostError

DAY_US = 86_400 * SECOND_US


@pytest.mark.parametrize(
    ("text", "limit", "seconds"),
    [
        ("100/minute", 100, 60),
        ("35184372088832/minute", 2**45, 60),
        ("5/week", 5, 7 * 86_400),
        ("5/month", 5, 31 * 86_400),
        ("5 per year", 5, 366 * 86_400),
        ("5/s", 5, 1),
        ("5/sec", 5, 1),
        ("5 / seconds", 5, 1),
        ("1/h", 1, 3_600),
        ("1 per hour", 1, 3_600),
        ("1000/day", 1_000, 86_400),
        ("10/d", 10, 86_400),
        ("3/m", 3, 60),
        ("100 per 90 s", 100, 90),
        ("100/90s", 100, 90),
        ("2 PER 3 Days", 2, 3 * 86_400),
        ("  7/2hours ", 7, 7_200),
    ],
)
def test_parse_rate(text: str, limit: int, seconds: int) -> None:
    """A rate is a number, `/` or `per`, and a period with or without a number of its own."""
    assert parse_rate(text) == (limit, seconds * SECOND_US)


@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "/minute", "100/", "100/fortnight", "100/ss", "1.5/second", "-1/second"),
        *("100/minute/hour", "100 minute", "1e3/second", "100/1.5 s", "٣/second", "1_000/day"),
        *("1234567890123456/second", "1/1234567890 s", "1/s\n2/s", "5//s", "100perday s"),
    ],
)
def test_parse_rate_rejects_other_text(text: str) -> None:
    """The message contains valid rates."""
    with pytest.raises(ConfigError, match=r"is not a rate: write 100/second"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0/second", "5/0 s", "0/0 s"])
def test_parse_rate_rejects_zero(text: str) -> None:
    """A rate of 0 units, or per no time, is an error."""
    with pytest.raises(ConfigError, match="allows nothing"):
        parse_rate(text)


def test_rate_quota_burst_defaults_to_the_limit() -> None:
    """A bucket holds its limit, or the burst that is given."""
    assert rate_quota("5/minute").burst == 5
    assert rate_quota("5/minute", burst=9) == Quota(Algorithm.TOKEN_BUCKET, 5, 60 * SECOND_US, 9)


def test_request_holds_a_bounded_number_of_concurrency_units() -> None:
    """The store has an entry for each unit that a request holds."""
    quota = concurrency_quota(10_000)
    assert quota.units_for(MAX_HELD_UNITS) == MAX_HELD_UNITS
    with pytest.raises(CostError, match="a cost of 101 is above 100, the most that one request"):
        quota.units_for(MAX_HELD_UNITS + 1)
    with pytest.raises(CostError, match="a cost of 4 is above 3, the most that one request"):
        concurrency_quota(10_000, cost=30).units_for(4)
    with pytest.raises(ConfigError, match="a request holds at most 100 units of a concurrency"):
        concurrency_quota(10_000, cost=MAX_HELD_UNITS + 1)


def test_concurrency_quota_has_no_rate() -> None:
    """Concurrency has a limit and a lease; a rate for it is an error with the fix."""
    assert concurrency_quota(3, lease=0.005) == Quota(Algorithm.CONCURRENCY, 3, 5_000, 3)
    with pytest.raises(ConfigError, match="write `concurrency: 10` in place of `rate`"):
        rate_quota("5/minute", algorithm=Algorithm.CONCURRENCY)


@pytest.mark.parametrize("lease", [math.nan, math.inf, -math.inf, 1e308, "30", None])
def test_lease_is_a_finite_duration(lease: Any) -> None:
    """Any other value is an error that says what to write."""
    with pytest.raises(ConfigError, match="not a duration: write a number of seconds"):
        concurrency_quota(3, lease=lease)


@pytest.mark.parametrize(
    ("algorithm", "figures", "message"),
    [
        ("fixed_window", (0, SECOND_US, 0, 1), "a limit must be from 1 to"),
        ("fixed_window", (-1, SECOND_US, 1, 1), "a limit must be from 1 to"),
        ("token_bucket", (MAX_LIMIT + 1, SECOND_US, 1, 1), "from 1 to 35,184,372,088,832, not 35"),
        ("token_bucket", (1, 0, 1, 1), "a period or lease must be whole milliseconds"),
        ("token_bucket", (1, 999, 1, 1), "a period or lease must be whole milliseconds"),
        ("token_bucket", (1, 1_500, 1, 1), "a period or lease must be whole milliseconds"),
        ("token_bucket", (1, SECOND_US, 0, 1), "a burst must be from 1 to"),
        ("token_bucket", (1, SECOND_US, MAX_LIMIT + 1, 1), "a burst must be from 1 to"),
        ("token_bucket", (1, SECOND_US, 1, 0), "a limit's cost must be at least 1"),
        ("token_bucket", (9, SECOND_US, 2, 3), "write a burst of at least 3"),
        ("fixed_window", (2, SECOND_US, 2, 3), "burst 2 is below cost 3"),
        ("fixed_window", (2, SECOND_US, 3, 1), "leave it out for fixed_window"),
        ("sliding_log", (10_001, SECOND_US, 10_001, 1), "write sliding_window for 10,001"),
        ("concurrency", (10_001, SECOND_US, 10_001, 1), "write at most 10,000, or a rate"),
        ("token_bucket", (MAX_LIMIT, 10**16, 1, 1), "a period is at most 285 years"),
        ("fixed_window", (1, 367 * DAY_US, 1, 1), "more than 366 days to fill"),
        ("token_bucket", (1, DAY_US, 367, 1), "write a smaller burst or period"),
    ],
)
def test_quota_rejects_invalid_values(
    algorithm: str, figures: tuple[int, int, int, int], message: str
) -> None:
    """Values that cannot work together are an error with the fix in the message."""
    limit, period_us, burst, cost = figures
    with pytest.raises(ConfigError, match=message):
        Quota(Algorithm(algorithm), limit, period_us, burst, cost)


def test_quota_accepts_the_largest_values() -> None:
    """Valid values reach up to the bounds that the messages name."""
    for algorithm in (Algorithm.TOKEN_BUCKET, Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW):
        Quota(algorithm, MAX_LIMIT, 366 * DAY_US, MAX_LIMIT)
    Quota(Algorithm.TOKEN_BUCKET, MAX_LIMIT, MAX_PERIOD_US, MAX_LIMIT // 300)
    Quota(Algorithm.SLIDING_LOG, MAX_ENTRIES, 1_000, MAX_ENTRIES)
    Quota(Algorithm.TOKEN_BUCKET, 1, DAY_US, 366)


@pytest.mark.parametrize(
    ("quota", "name"),
    [
        (rate_quota("5/minute"), "tb60"),
        (rate_quota("5/minute", algorithm=Algorithm.FIXED_WINDOW), "fw60"),
        (rate_quota("5/hour", algorithm=Algorithm.SLIDING_WINDOW), "sw3600"),
        (rate_quota("5/second", algorithm=Algorithm.SLIDING_LOG), "sl1"),
        (concurrency_quota(5), "c30"),
        (concurrency_quota(5, lease=timedelta(milliseconds=1_500)), "c1500ms"),
    ],
)
def test_quota_name_contains_algorithm_and_period(quota: Quota, name: str) -> None:
    """A quota's name is its algorithm's initials and its period."""
    assert quota.name == name


def test_quota_refill_time_is_rounded_up() -> None:
    """A bucket refills in burst / rate, a window in its period."""
    assert rate_quota("7/minute", burst=1).refill_us == 8_571_429
    assert rate_quota("7/minute", algorithm=Algorithm.SLIDING_LOG).refill_us == 60 * SECOND_US


def test_units_for_multiplies_the_costs() -> None:
    """A request's cost is multiplied by the quota's, and 0 stays 0."""
    quota = rate_quota("9/minute", cost=3)
    assert [quota.units_for(cost) for cost in (0, 1, 3)] == [0, 3, 9]


def test_units_for_rejects_a_cost_above_the_burst() -> None:
    """A cost that can never fit is an error, unlike one that has to wait."""
    quota = rate_quota("9/minute", cost=3)
    with pytest.raises(CostError, match="a cost of 4 can never pass a limit that holds 3"):
        quota.units_for(4)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (-1, "negative: -1"),
        (1.5, r"a whole number, not 1\.5"),
        (2.0, r"a whole number, not 2\.0"),
        (math.nan, "a whole number, not nan"),
        ("2", "a whole number, not '2'"),
        (None, "a whole number, not None"),
    ],
)
def test_check_cost_rejects_a_negative_number_and_a_fraction(cost: object, message: str) -> None:
    """A negative cost would add units to a bucket, and no bucket counts fractions."""
    with pytest.raises(CostError, match=message):
        check_cost(cost)


class Seven:
    """An integer of another type, as numpy has them."""

    def __index__(self) -> int:
        """Return the integer."""
        return 7


def test_check_cost_is_bounded() -> None:
    """A product of two long numbers of a request has too many digits for Python's `str`."""
    assert check_cost(10**5_000) == MAX_SAFE_INTEGER
    with pytest.raises(CostError, match="can never pass"):
        Quota(Algorithm.FIXED_WINDOW, 1, SECOND_US, 1).units_for(check_cost(10**5_000))
    with pytest.raises(CostError, match="negative"):
        check_cost(-(10**5_000))


def test_check_cost_returns_an_int() -> None:
    """Any integer becomes an `int`, because the store accepts nothing else."""
    found = [check_cost(each) for each in (0, True, Seven())]
    assert found == [0, 1, 7]
    assert {type(each) for each in found} == {int}


@pytest.mark.parametrize("figure", [2.0, 2.5, math.nan, "2"])
def test_quota_rejects_a_figure_that_is_no_integer(figure: Any) -> None:
    """Buckets count in integers."""
    for make in (
        partial(rate_quota, "5/minute", cost=figure),
        partial(rate_quota, "5/minute", burst=figure),
        partial(concurrency_quota, figure),
    ):
        with pytest.raises(ConfigError, match=r"is a whole number, not .*: write an integer"):
            make()


def test_quota_has_ints() -> None:
    """Any integer becomes an `int`."""
    seven: Any = Seven()
    quota = rate_quota("9/minute", burst=seven, cost=True)
    assert {type(each) for each in (quota.limit, quota.burst, quota.cost)} == {int}
    assert quota == rate_quota("9/minute", burst=7)


def any_quota() -> st.SearchStrategy[Quota]:
    """Generate every kind of valid quota."""

    def build(algorithm: Algorithm, limit: int, period_ms: int, burst: int, cost: int) -> Quota:
        if algorithm in {Algorithm.SLIDING_LOG, Algorithm.CONCURRENCY}:
            limit = min(limit, MAX_ENTRIES)
        burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
        try:
            return Quota(algorithm, limit, period_ms * 1_000, burst, min(cost, burst))
        except ConfigError:
            reject()

    size = st.one_of(st.integers(1, 20), st.integers(1, MAX_LIMIT))
    period_ms = st.one_of(st.integers(1, 100), st.integers(1, MAX_REFILL_US // 1_000))
    return st.builds(build, st.sampled_from(Algorithm), size, period_ms, size, size)


@given(quota=any_quota(), replicas=st.integers(1, 500))
def test_per_replica_shares_add_up_to_the_limit(quota: Quota, replicas: int) -> None:
    """The shares of all replicas hold at most the limit, or one request each."""
    share = quota.per_replica(replicas)
    assert replicas * share.burst <= max(quota.burst, replicas * quota.cost)
    if quota.algorithm is not Algorithm.TOKEN_BUCKET:
        assert share.limit == share.burst
        assert share.period_us == quota.period_us


@given(quota=any_quota(), replicas=st.integers(1, 500))
def test_per_replica_rates_add_up_to_the_rate(quota: Quota, replicas: int) -> None:
    """The shares refill at most at the limit's rate, or one request each in a year."""
    share = quota.per_replica(replicas)
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        rate = Fraction(quota.limit, quota.period_us)
        together = replicas * Fraction(share.limit, share.period_us)
        slowest = (
            share.burst == quota.cost
            and share.refill_us > MAX_REFILL_US - share.burst * MILLISECOND_US
        )
        assert together <= rate or slowest


def test_per_replica_share_divides_the_limit_where_the_period_is_long() -> None:
    """A period of more than 285 years is no period: the limit is smaller in its place."""
    quota = Quota(Algorithm.TOKEN_BUCKET, MAX_LIMIT, MAX_PERIOD_US, 600)
    share = quota.per_replica(3)
    assert (share.limit, share.period_us, share.burst) == (MAX_LIMIT // 3, MAX_PERIOD_US, 200)


def test_per_replica_share_of_one_replica_is_the_limit() -> None:
    """A single replica has the whole limit."""
    quota = rate_quota("9/minute", burst=20, cost=2)
    assert quota.per_replica(1) is quota
    assert quota.per_replica(0) is quota
    share = Quota(Algorithm.TOKEN_BUCKET, 9, 240 * SECOND_US, 5, 2, name="tb60")
    assert quota.per_replica(4) == share


@given(quota=any_quota(), replicas=st.integers(1, 500))
def test_per_replica_share_has_the_name_of_the_quota(quota: Quota, replicas: int) -> None:
    """A limit has one name for clients; a share differs from a quota with its figures."""
    share = quota.per_replica(replicas)
    assert share.name == quota.name
    assert replace(share, name="other") != share


def test_quota_period_in_seconds() -> None:
    """Users read the period in seconds."""
    assert rate_quota("5/minute").period_seconds == 60
    assert concurrency_quota(3, lease=0.5).period_seconds == 0.5


@pytest.mark.parametrize(
    ("rate", "options", "calendar"),
    [
        ("5/month", {}, Calendar("month")),
        ("5 per month", {"algorithm": Algorithm.FIXED_WINDOW}, Calendar("month")),
        ("5/w", {"anchor": "sun"}, Calendar("week", "UTC", "sunday")),
        ("5 per 1 mo", {"anchor": 15}, Calendar("month", "UTC", 15)),
        ("5/y", {"anchor": "04-06"}, Calendar("year", "UTC", "04-06")),
        ("5/day", {"timezone": "Asia/Tokyo"}, Calendar("day", "Asia/Tokyo")),
    ],
)
def test_rate_of_a_calendar(rate: str, options: dict[str, Any], calendar: Calendar) -> None:
    """Weeks, months and years, and days of a time zone, are fixed windows with a calendar."""
    quota = rate_quota(rate, **options)
    assert quota.calendar == calendar
    assert (quota.algorithm, quota.limit, quota.burst) == (Algorithm.FIXED_WINDOW, 5, 5)
    assert (quota.period_us, quota.refill_us) == (calendar.longest_us, calendar.longest_us)
    assert quota.name == calendar.unit
    assert quota != replace(quota, calendar=None)
    share = quota.per_replica(2)
    assert (share.limit, share.calendar, share.name) == (2, calendar, calendar.unit)


@pytest.mark.parametrize(
    ("rate", "options", "message"),
    [
        ("5 per 2 weeks", {}, "write 5/week, or 5 per 14 days"),
        ("5/2 years", {}, "write 5/year, or 5 per 730 days"),
        ("5/hour", {"timezone": "UTC"}, "write 5/day, 5/week, 5/month or 5/year, and not '5/hour'"),
        ("5 per 2 days", {"timezone": "UTC"}, "windows of a calendar: write 5/day"),
        ("5/minute", {"anchor": 1}, "windows of a calendar: write 5/day"),
        ("5/day", {"anchor": 1}, "a day has no anchor"),
        ("5/day", {"timezone": ""}, "'' is not a time zone"),
        ("5/month", {"algorithm": Algorithm.SLIDING_LOG}, "write fixed_window, or 5 per 720 hours"),
        (
            "5/day",
            {"algorithm": Algorithm.TOKEN_BUCKET, "timezone": "UTC"},
            "write fixed_window, or 5 per 24 hours without timezone",
        ),
        ("5/month", {"burst": 6}, "burst belongs to token_bucket only"),
        ("5/month", {"cost": 6}, "write a burst of at least 6"),
        ("5/month", {"timezone": "Mars/Olympus"}, "is not a time zone"),
    ],
)
def test_rate_of_a_calendar_rejects_other_values(
    rate: str, options: dict[str, Any], message: str
) -> None:
    """What a calendar cannot do is an error that says what to write."""
    with pytest.raises(ConfigError, match=message):
        rate_quota(rate, **options)


def test_calendar_belongs_to_a_fixed_window_of_its_length() -> None:
    """A quota cannot have a calendar that it does not count by."""
    for algorithm, period_us in (
        (Algorithm.TOKEN_BUCKET, 31 * DAY_US),
        (Algorithm.FIXED_WINDOW, 30 * DAY_US),
    ):
        with pytest.raises(ConfigError, match=r"write Limit\.rate\('5/month', timezone='UTC'\)"):
            Quota(algorithm, 5, period_us, 5, calendar=Calendar("month"))
