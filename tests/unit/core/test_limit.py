"""Limits as code writes them."""

from datetime import timedelta
from typing import Any

import pytest

from fleetlimit.core.limit import Limit
from fleetlimit.core.quota import (
    SECOND_US,
    Algorithm,
    Quota,
    rate_quota,
)
from fleetlimit.errors import ConfigError


@pytest.mark.parametrize(
    ("limit", "quota"),
    [
        (Limit.rate("5/minute"), rate_quota("5/minute")),
        (Limit.rate("5/minute", burst=9, cost=2), rate_quota("5/minute", burst=9, cost=2)),
        (
            Limit.rate("5 per 90 s", algorithm="sliding_log"),
            rate_quota("5 per 90 s", algorithm=Algorithm.SLIDING_LOG),
        ),
        (Limit.rate("5 per 30 days"), rate_quota("5 per 30 days")),
        (Limit.rate("5/month", cost=2), rate_quota("5/month", cost=2)),
        (
            Limit.rate("5/year", timezone="Europe/Berlin", anchor="4-1"),
            rate_quota("5/year", timezone="Europe/Berlin", anchor="04-01"),
        ),
        (
            Limit.rate("5/day", timezone="Asia/Tokyo"),
            rate_quota("5/day", timezone="Asia/Tokyo"),
        ),
        (Limit.concurrent(4), Quota(Algorithm.CONCURRENCY, 4, 30 * SECOND_US, 4)),
        (Limit.concurrent(4, lease=1.5), Quota(Algorithm.CONCURRENCY, 4, 1_500_000, 4)),
        (
            Limit.concurrent(4, lease=timedelta(minutes=1), cost=2),
            Quota(Algorithm.CONCURRENCY, 4, 60 * SECOND_US, 4, 2),
        ),
    ],
    ids=repr,
)
def test_limit_resolves_to_a_quota(limit: Limit, quota: Quota) -> None:
    """A limit takes plain values, and `repr` shows how to write it again."""
    assert limit.quota == quota
    assert eval(repr(limit), {"Limit": Limit}) == limit  # noqa: S307 - the purpose of the test


@pytest.mark.parametrize("algorithm", ["gcra", "concurrency"])
def test_limit_rejects_an_algorithm_without_a_rate(algorithm: Any) -> None:
    """The message says what to write."""
    with pytest.raises(ConfigError, match=r"write one of token_bucket, .*|write `concurrency: 10`"):
        Limit.rate("5/minute", algorithm=algorithm)
