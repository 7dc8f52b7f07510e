"""How limits are cut into slices, and what of a slice can be given back."""

from dataclasses import replace

import pytest

from fleetlimit.core.policy import Policy
from fleetlimit.core.prefetch import prefetch_terms, refundable_units
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.errors import ConfigError
from support.stores import MINUTE_US, quota_of

BUCKET = rate_quota("100/minute", burst=150)
WINDOW = rate_quota("1000/hour", algorithm=Algorithm.FIXED_WINDOW)


def test_token_bucket() -> None:
    """Its bucket holds less by a slice, which lives as long as it takes to be gained again."""
    slicing = prefetch_terms((BUCKET,), 0.1)

    assert slicing.quotas == (replace(BUCKET, burst=135),)
    assert (slicing.max_cost, slicing.lifetime_us) == (15, 9 * SECOND_US)


def test_fixed_window() -> None:
    """A window keeps its limit, for its slices end with it."""
    slicing = prefetch_terms((WINDOW,), 0.05)

    assert slicing.quotas == (WINDOW,)
    assert (slicing.max_cost, slicing.lifetime_us) == (50, 180 * SECOND_US)


def test_several_limits() -> None:
    """A slice of several limits is the smallest of theirs, and lives as long as the shortest."""
    slicing = prefetch_terms((BUCKET, replace(WINDOW, cost=20)), 0.1)

    assert slicing.quotas == (replace(BUCKET, burst=135), replace(WINDOW, cost=20))
    assert (slicing.max_cost, slicing.lifetime_us) == (5, 9 * SECOND_US)


def test_a_life_is_never_longer_than_what_a_bucket_gains() -> None:
    """A life that is no whole number of microseconds is rounded down."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 7)
    slicing = prefetch_terms((quota,), 0.29)

    assert slicing.max_cost == 2
    assert slicing.lifetime_us * quota.limit <= slicing.max_cost * quota.period_us
    assert (slicing.lifetime_us + 1) * quota.limit > slicing.max_cost * quota.period_us


def test_a_part_is_taken_as_it_is_written() -> None:
    """The double next to 0.29 is below it, and would make 28 of 29 units."""
    assert prefetch_terms((rate_quota("100/minute"),), 0.29).max_cost == 29


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, 1.0, float("nan")])
def test_fraction(fraction: float) -> None:
    """A part is above nothing, and leaves at least as much in the bucket."""
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
def test_other_algorithms(quota: Quota) -> None:
    """An algorithm whose bound would not hold says which ones can be cut."""
    with pytest.raises(ConfigError, match=f"fixed_window only: leave it out for {quota.algorithm}"):
        Policy("exports", (BUCKET, quota), prefetch=0.1)


@pytest.mark.parametrize("quota", [rate_quota("9/minute"), rate_quota("100/minute", cost=11)])
def test_less_than_a_request(quota: Quota) -> None:
    """A slice that holds no request is an error, and so is one of any tier."""
    with pytest.raises(ConfigError, match="holds no request: write a larger prefetch, limit"):
        Policy("exports", (BUCKET,), {"free": (quota,)}, prefetch=0.1)


def test_policy_with_tiers() -> None:
    """Each tier's limits are cut, and a policy without a lease is as it was."""
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
    slicing = policy.prefetch_terms("free")
    assert slicing is not None
    assert slicing.max_cost == 2
    assert plain.prefetch_terms("free") is None


def test_unused_of_a_token_bucket() -> None:
    """What the bucket may have gained meanwhile is not given back: it would have it twice."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 60)
    left = [
        refundable_units(quota, 10, age_us, MINUTE_US) for age_us in (0, 1, SECOND_US, 9_000_001)
    ]

    assert left == [10, 9, 9, 0]


def test_unused_of_a_window() -> None:
    """A window takes back until it ends."""
    quota = quota_of(Algorithm.FIXED_WINDOW, 60)
    left = [
        refundable_units(quota, 10, age_us, MINUTE_US) for age_us in (0, MINUTE_US - 1, MINUTE_US)
    ]

    assert left == [10, 10, 0]
