"""Caches of the HTTP side: right for the next request, and bounded whatever clients send."""

import itertools

import pytest

from fleetlimit import RateLimit
from fleetlimit.core.decision import BucketStatus, Decision, Outcome, PolicyResult, Source
from fleetlimit.core.key_parts import KeyPart
from fleetlimit.core.policy import Match, Mode
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US, rate_quota
from fleetlimit.web.http_limiter import MAX_CACHED_HEADERS, MAX_CACHED_REJECTIONS
from fleetlimit.web.policy_cache import MAX_CACHED, PolicyCache
from fleetlimit.web.ratelimit_headers import HeaderFormat, encode_headers
from fleetlimit.web.route_policies import ApplicablePolicies
from support.limiter import rate_policy
from support.web import LimiterBench

ALL = rate_policy("all", "5/minute", match=Match(), key=(KeyPart.parse("header:x-team"),))
DEPENDENCIES = (RateLimit("2/second", cost=3, burst=9),)


def get(
    cache: PolicyCache, bench: LimiterBench, method: str | None = "GET", tier: str = ""
) -> ApplicablePolicies:
    return cache.get(bench.http_limiter, DEPENDENCIES, method, "/items", tier)


def test_policy_cache_reuses_entries_of_a_method_and_tier() -> None:
    """Requests of one method and tier share an entry: policies, costs and headers."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    first = get(cache, bench)
    assert [(each.policy.name, each.cost) for each in first.policy_costs] == [
        ("all", 1),
        (first.names[1], 3),
    ]
    assert first.key_headers == {"x-team"}
    assert get(cache, bench) is first
    assert get(cache, bench, "POST") is not first
    assert get(cache, bench, tier="pro") is not first
    assert get(cache, bench) is first


def test_policy_cache_leaves_out_matching_policies() -> None:
    """Without a method only the policies of the dependencies apply."""
    applicable = get(PolicyCache(), LimiterBench(ALL), None)
    assert "all" not in applicable.names
    assert len(applicable.policy_costs) == 1


def test_policy_cache_follows_a_new_policy_set() -> None:
    """An entry of another policy set is not used."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    assert "all" in get(cache, bench).names
    bench.limiter.active_policies.replace(PolicySet())
    assert "all" not in get(cache, bench).names


def test_policy_cache_separates_dependencies() -> None:
    """An entry of other dependencies is not used."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    get(cache, bench)
    assert cache.get(bench.http_limiter, (), "GET", "/items", "").names == ("all",)


def test_policy_cache_ignores_unknown_methods() -> None:
    """A client that invents methods does not fill the cache."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    cached = get(cache, bench)
    unknown = get(cache, bench, "BREW")
    assert get(cache, bench, "BREW") is not unknown
    assert get(cache, bench) is cached


def test_policy_cache_is_bounded() -> None:
    """Beyond the bound the oldest entry is dropped."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    first = get(cache, bench)
    for number in range(MAX_CACHED):
        get(cache, bench, tier=f"tier{number}")
    assert get(cache, bench) is not first


def test_rejection_cache_reuses_and_is_bounded() -> None:
    """Equal decisions have one response; the oldest is dropped beyond the bound."""
    http_limiter = LimiterBench(ALL).http_limiter

    def denied(seconds: int) -> Decision:
        status = BucketStatus(
            allowed=False,
            remaining=0,
            retry_after_us=seconds * SECOND_US,
            next_unit_after_us=1,
            reset_after_us=1,
        )
        result = PolicyResult("all", Mode.ENFORCE, Outcome.DENIED, LIMITS[0], (status,))
        return Decision(Outcome.DENIED, Source.CACHE, (result,), status.retry_after_us)

    first = http_limiter.rejection_response(denied(1))
    assert http_limiter.rejection_response(denied(1)) is first
    for seconds in range(2, MAX_CACHED_REJECTIONS + 2):
        http_limiter.rejection_response(denied(seconds))
    assert len(http_limiter._rejection_cache) == MAX_CACHED_REJECTIONS
    assert http_limiter.rejection_response(denied(1)).body == first.body
    without_limits = Decision(Outcome.DENIED, Source.CACHE, retry_after_us=1)
    other = http_limiter.rejection_response(without_limits)
    assert other.body != first.body
    assert http_limiter.rejection_response(without_limits) is other
    assert len(http_limiter._rejection_cache) == MAX_CACHED_REJECTIONS


LIMITS = (rate_quota("5/minute"),), (rate_quota("5/second"),), (rate_quota("5/hour", burst=9),)
STATUSES = [
    None,
    *itertools.starmap(
        BucketStatus, itertools.product([True], [0, 1], [0], [0, 1, 1_000_001], [0, 9])
    ),
]
RESULTS = [
    PolicyResult(name, mode, Outcome.ALLOWED, quotas, (status,))
    for name, mode, quotas, status in itertools.product(["a", "b"], Mode, LIMITS, STATUSES)
]


@pytest.mark.parametrize(
    "header_format", [HeaderFormat.DRAFT_11, HeaderFormat.X_RATELIMIT, HeaderFormat.NONE]
)
def test_header_cache_returns_the_headers_of_the_decision(header_format: HeaderFormat) -> None:
    """Cached headers are those that the decision would be given without a cache."""
    http_limiter = LimiterBench(ALL, header_format=header_format).http_limiter
    for result in RESULTS * 2:
        decision = Decision(Outcome.ALLOWED, Source.STORE, (result,), spent=True)
        assert http_limiter.raw_response_headers(decision) == encode_headers(
            http_limiter.response_headers(decision)
        )


def test_header_cache_reuses_and_is_bounded() -> None:
    """Equal headers are built once; the oldest are dropped beyond the bound."""
    http_limiter = LimiterBench(ALL).http_limiter

    def headers_of(remaining: int) -> list[tuple[bytes, bytes]]:
        status = BucketStatus(
            allowed=True,
            remaining=remaining,
            retry_after_us=0,
            next_unit_after_us=1,
            reset_after_us=1,
        )
        result = PolicyResult("all", Mode.ENFORCE, Outcome.ALLOWED, LIMITS[0], (status,))
        return http_limiter.raw_response_headers(Decision(Outcome.ALLOWED, Source.STORE, (result,)))

    first = headers_of(0)
    assert headers_of(0) is first
    for remaining in range(MAX_CACHED_HEADERS + 1):
        headers_of(remaining)
    assert headers_of(0) is not first
    assert headers_of(0) == first
