"""Prefetch terms: prefetch sizes and lifetimes, and the refund of unused units."""

from dataclasses import replace

import pytest

from fleetlimit.core.policy import Policy
from fleetlimit.core.prefetch import prefetch_terms, refundable_units
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.errors import ConfigError
from support.stores import MINUTE_US, quota_of

BUCKET = rate_quota("100/minute", burst=150)
WINDOW = rate_quota("1000/hour", algorithm=Algorithm.FIXED_WINDOW)


def test_prefetch_terms_of_a_token_bucket() -> None:
    """The bucket is smaller by one prefetch, and a prefetch lives as long as its units refill."""
    terms = prefetch_terms((BUCKET,), 0.1)

    assert terms.quotas == (replace(BUCKET, burst=135),)
    assert (terms.max_cost, terms.lifetime_us) == (15, 9 * SECOND_US)


def test_prefetch_terms_of_a_fixed_window() -> None:
    """A window keeps its limit, because its prefetches expire with it."""
    terms = prefetch_terms((WINDOW,), 0.05)

    assert terms.quotas == (WINDOW,)
    assert (terms.max_cost, terms.lifetime_us) == (50, 180 * SECOND_US)


def test_prefetch_terms_of_several_limits() -> None:
    """A prefetch has the smallest of the sizes, and the shortest of the lifetimes."""
    terms = prefetch_terms((BUCKET, replace(WINDOW, cost=20)), 0.1)

    assert terms.quotas == (replace(BUCKET, burst=135), replace(WINDOW, cost=20))
    assert (terms.max_cost, terms.lifetime_us) == (5, 9 * SECOND_US)


def test_prefetch_lifetime_is_rounded_down() -> None:
    """A lifetime that is not a whole number of microseconds is rounded down."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 7)
    terms = prefetch_terms((quota,), 0.29)

    assert terms.max_cost == 2
    assert terms.lifetime_us * quota.limit <= terms.max_cost * quota.period_us
    assert (terms.lifetime_us + 1) * quota.limit > terms.max_cost * quota.period_us


def test_prefetch_fraction_is_exact() -> None:
    """The double next to 0.29 is below it, and would give 28 of 29 units."""
    assert prefetch_terms((rate_quota("100/minute"),), 0.29).max_cost == 29


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, 1.0, float("nan")])
def test_policy_rejects_an_invalid_prefetch_fraction(fraction: float) -> None:
    """A fraction is above 0, and leaves at least as much in the bucket."""
    with pytest.raises(ConfigError, match=r"above 0 and at most 0\.5, not"):
        Policy("exports", (BUCKET,), prefetch=fraction)


@pytest.mark.parametrize(
    "quota",
    [
        rate_quota("100/minute", algorithm=Algorithm.SLIDING_WINDOW),
        rate_quota("100/minute", algorithm=Algorithm.SLIDING_LOG),
        concurrency_quota(100),
    ],
    ids=lambda quota: quota.algorithm,
)
def test_policy_rejects_prefetch_of_other_algorithms(quota: Quota) -> None:
    """The message lists the algorithms that can be prefetched."""
    with pytest.raises(ConfigError, match=f"fixed_window only: leave it out for {quota.algorithm}"):
        Policy("exports", (BUCKET, quota), prefetch=0.1)


@pytest.mark.parametrize("quota", [rate_quota("9/minute"), rate_quota("100/minute", cost=11)])
def test_policy_rejects_a_prefetch_below_one_request(quota: Quota) -> None:
    """A prefetch that holds no request is an error in every tier."""
    with pytest.raises(ConfigError, match="holds no request: write a larger prefetch, limit"):
        Policy("exports", (BUCKET,), {"free": (quota,)}, prefetch=0.1)


def test_policy_has_prefetch_terms_by_tier() -> None:
    """Each tier has its own terms, and a policy without prefetch keeps its limits."""
    tiers = {"free": (rate_quota("20/minute"),)}
    policy, plain = Policy("a", (BUCKET,), tiers, prefetch=0.1), Policy("a", (BUCKET,), tiers)

    assert [quota.burst for tier in ("free", "pro") for quota in policy.quotas_for(tier)] == [
        18,
        135,
    ]
    assert [quota.burst for tier in ("free", "pro") for quota in plain.quotas_for(tier)] == [
        20,
        150,
    ]
    terms = policy.prefetch_terms("free")
    assert terms is not None
    assert terms.max_cost == 2
    assert plain.prefetch_terms("free") is None


def test_refundable_units_of_a_token_bucket() -> None:
    """Units that the bucket may have refilled are not refunded."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 60)
    left = [
        refundable_units(quota, 10, age_us, MINUTE_US) for age_us in (0, 1, SECOND_US, 9_000_001)
    ]

    assert left == [10, 9, 9, 0]


def test_refundable_units_of_a_fixed_window() -> None:
    """Units are refunded until the window ends."""
    quota = quota_of(Algorithm.FIXED_WINDOW, 60)
    left = [
        refundable_units(quota, 10, age_us, MINUTE_US) for age_us in (0, MINUTE_US - 1, MINUTE_US)
    ]

    assert left == [10, 10, 0]
