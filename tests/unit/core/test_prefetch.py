"""Prefetch terms: prefetch sizes and lifetimes, and the refund of unused units."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fleetlimit import RateLimit
from fleetlimit.core.policy import Policy
from fleetlimit.core.prefetch import (
    PrefetchSpec,
    PrefetchTerms,
    prefetch_terms,
    refundable_units,
)
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.errors import ConfigError
from support.stores import MINUTE_US, quota_of

BUCKET = rate_quota("100/minute", burst=150)
WINDOW = rate_quota("1000/hour", algorithm=Algorithm.FIXED_WINDOW)


def terms_of(prefetch: PrefetchSpec, *quotas: Quota) -> PrefetchTerms:
    """Return the terms of quotas that are prefetched."""
    terms = prefetch_terms(quotas, prefetch)
    assert terms is not None
    return terms


def test_prefetch_terms_of_a_token_bucket() -> None:
    """A prefetch is a part of the burst, and lives at most as long as its units refill."""
    terms = terms_of(0.1, BUCKET)

    assert (terms.max_cost, terms.lifetime_us) == (15, 9 * SECOND_US)


def test_prefetch_terms_of_a_fixed_window() -> None:
    """A prefetch is a part of the limit, and lives for that part of the window."""
    terms = terms_of(0.05, WINDOW)

    assert (terms.max_cost, terms.lifetime_us) == (50, 180 * SECOND_US)


def test_prefetch_terms_of_several_limits() -> None:
    """A prefetch has the smallest of the sizes, and the shortest of the lifetimes."""
    terms = terms_of(0.1, BUCKET, replace(WINDOW, cost=20))

    assert (terms.max_cost, terms.lifetime_us) == (5, 9 * SECOND_US)


def test_prefetch_lifetime_is_rounded_down() -> None:
    """A lifetime that is not a whole number of microseconds is rounded down."""
    quota = quota_of(Algorithm.TOKEN_BUCKET, 7)
    terms = terms_of(0.29, quota)

    assert terms.max_cost == 2
    assert terms.lifetime_us * quota.limit <= terms.max_cost * quota.period_us
    assert (terms.lifetime_us + 1) * quota.limit > terms.max_cost * quota.period_us


def test_prefetch_fraction_is_exact() -> None:
    """The double next to 0.29 is below it, and would give 28 of 29 units."""
    assert terms_of(0.29, rate_quota("100/minute")).max_cost == 29


@pytest.mark.parametrize(
    ("quotas", "terms"),
    [
        # A sixteenth of the burst, for at most a second and the time in which it refills.
        ((rate_quota("320/minute"),), PrefetchTerms(20, SECOND_US, on_demand=True)),
        ((rate_quota("320/second"),), PrefetchTerms(20, 62_500, on_demand=True)),
        ((WINDOW,), PrefetchTerms(62, SECOND_US, on_demand=True)),
        ((rate_quota("320/second", cost=4),), PrefetchTerms(5, 62_500, on_demand=True)),
        ((rate_quota("320/second"), WINDOW), PrefetchTerms(20, 62_500, on_demand=True)),
        # A prefetch of one request saves no call.
        ((rate_quota("32/minute"),), PrefetchTerms(2, SECOND_US, on_demand=True)),
        ((rate_quota("31/minute"),), None),
        ((rate_quota("320/minute", cost=11),), None),
        ((rate_quota("320/minute"), rate_quota("31/minute")), None),
        # Some algorithms have no prefetch.
        ((rate_quota("320/minute", algorithm=Algorithm.SLIDING_WINDOW),), None),
        ((rate_quota("320/minute"), concurrency_quota(100)), None),
    ],
    ids=lambda each: " and ".join(map(str, each)) if isinstance(each, tuple) else None,
)
def test_automatic_terms(quotas: tuple[Quota, ...], terms: PrefetchTerms | None) -> None:
    """`auto` leaves out quotas that cannot be prefetched or have no use of it."""
    assert prefetch_terms(quotas, "auto") == terms
    assert prefetch_terms(quotas, "off") is None


@pytest.mark.parametrize("prefetch", ["on", "AUTO", "0.1", "", True, [0.1], {}, Decimal("0.1")])
def test_policy_rejects_other_types_and_words(prefetch: Any) -> None:
    """The message has what can be written, and the value as it was."""
    with pytest.raises(ConfigError) as caught:
        Policy("exports", (BUCKET,), prefetch=prefetch)
    assert str(caught.value) == (
        'prefetch is "auto", "off", or a number above 0 and at most 0.5, as a part of the limit, '
        f"not {prefetch!r}"
    )
    with pytest.raises(ConfigError, match="prefetch is"):
        RateLimit("100/minute", prefetch=prefetch)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, 1.0, float("nan")])
def test_policy_rejects_an_invalid_prefetch_fraction(fraction: float) -> None:
    """A fraction is above 0, and leaves at least as much in the bucket."""
    with pytest.raises(ConfigError, match=r"above 0 and at most 0\.5, as a part of the limit, not"):
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
    """Each tier has its own terms, and prefetching leaves the limits as they are."""
    tiers = {"free": (rate_quota("20/minute"),)}
    policy, plain = Policy("a", (BUCKET,), tiers, prefetch=0.1), Policy("a", (BUCKET,), tiers)

    for tier, burst, terms in (
        ("free", 20, PrefetchTerms(2, 6 * SECOND_US)),
        ("pro", 150, PrefetchTerms(15, 9 * SECOND_US)),
    ):
        assert [quota.burst for quota in policy.quotas_for(tier)] == [burst]
        assert policy.quotas_for(tier) == plain.quotas_for(tier)
        assert policy.prefetch_terms(tier) == terms
        assert plain.prefetch_terms(tier) is None


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


def test_prefetch_terms_of_a_calendar() -> None:
    """A window of a calendar is a fixed window: its units can be refunded within it."""
    quota = rate_quota("1000/month", timezone="Europe/Berlin")
    terms = terms_of(0.05, quota)

    assert (terms.max_cost, terms.lifetime_us) == (50, quota.period_us // 20)
    assert refundable_units(quota, 7, 99, 100) == 7
    assert refundable_units(quota, 7, 100, 100) == 0
