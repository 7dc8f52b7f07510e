"""Expected maximum of admitted requests."""

import pytest

from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.demo.expected import max_admitted
from support.demo import HOUR_US, START_US


@pytest.mark.parametrize(
    ("micros", "expected"),
    [(0, 100), (35_999_999, 100), (36_000_000, 101), (HOUR_US, 200)],
)
def test_token_bucket_permits_burst_and_refill(micros: int, expected: int) -> None:
    """A bucket of 100 an hour permits 100 at once and one more every 36 seconds, not earlier."""
    quota = rate_quota("100/hour")
    assert max_admitted([quota], START_US, START_US + micros) == expected


@pytest.mark.parametrize(
    ("before_us", "micros", "expected"), [(1, 0, 5), (1, 1, 10), (HOUR_US, HOUR_US - 1, 5)]
)
def test_fixed_window_permits_its_limit_in_each_window(
    before_us: int, micros: int, expected: int
) -> None:
    """A run across the boundary of two windows may spend the limit of both."""
    quota = rate_quota("5/hour", algorithm=Algorithm.FIXED_WINDOW)
    start_us = START_US - before_us
    assert max_admitted([quota], start_us, start_us + micros) == expected


def test_lowest_of_several_limits_applies() -> None:
    """All limits must admit a request, so the lowest is the maximum."""
    quotas = [rate_quota("100/hour"), rate_quota("7/hour", algorithm=Algorithm.FIXED_WINDOW)]
    assert max_admitted(quotas, START_US, START_US) == 7
