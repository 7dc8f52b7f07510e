"""What is kept between requests is right for the next one, and bounded whatever clients send."""

import itertools

import pytest

from fleetlimit import RateLimit
from fleetlimit.core.decision import BucketStatus, Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import KeyPart, Match, Mode, PolicySet
from fleetlimit.core.quota import rate_quota
from fleetlimit.web.http_limiter import MAX_CACHED_HEADERS
from fleetlimit.web.ratelimit_headers import HeaderFormat, encode_headers
from fleetlimit.web.responses import MAX_CACHED_REJECTIONS
from fleetlimit.web.route_policies import MAX_CACHED, ApplicablePolicies, PolicyCache
from support.web import LimiterBench, rate_policy

ALL = rate_policy("all", "5/minute", match=Match(), key=(KeyPart.parse("header:x-team"),))
DEPENDENCIES = (RateLimit("2/second", cost=3, burst=9),)


def get(
    cache: PolicyCache,
    bench: LimiterBench,
    method: str = "GET",
    tier: str = "",
    *,
    match_policies: bool = True,
) -> ApplicablePolicies:
    return cache.get(bench.http_limiter, DEPENDENCIES, method, "/items", tier, match_policies)


def test_what_is_applicable_is_found_once() -> None:
    """Requests of one method and tier ask for the same: policies, costs and headers are kept."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    first = get(cache, bench)
    assert [(policy.name, cost) for policy, cost in first.policy_costs] == [
        ("all", 1),
        (first.names[1], 3),
    ]
    assert first.key_headers == {"x-team"}
    assert get(cache, bench) is first
    assert get(cache, bench, "POST") is not first
    assert get(cache, bench, tier="pro") is not first
    assert get(cache, bench) is first


def test_only_dependencies_are_asked_where_nothing_is_to_match() -> None:
    """Without a method the policies that match the request are left out."""
    applicable = get(PolicyCache(), LimiterBench(ALL), match_policies=False)
    assert "all" not in applicable.names
    assert len(applicable.policy_costs) == 1


def test_new_policies_are_asked_for_at_once() -> None:
    """What was found under other policies is found anew."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    assert "all" in get(cache, bench).names
    bench.limiter.active_policies.replace(PolicySet())
    assert "all" not in get(cache, bench).names


def test_other_dependencies_ask_for_their_own() -> None:
    """What was found for some dependencies is not what others ask for."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    get(cache, bench)
    assert cache.get(bench.http_limiter, (), "GET", "/items", "", True).names == ("all",)


def test_words_that_are_no_methods_are_not_kept() -> None:
    """A client that makes up methods does not fill the memory."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    kept = get(cache, bench)
    made_up = get(cache, bench, "BREW")
    assert get(cache, bench, "BREW") is not made_up
    assert get(cache, bench) is kept


def test_many_tiers_do_not_fill_the_memory() -> None:
    """Beyond so many tiers what is kept is found anew."""
    bench, cache = LimiterBench(ALL), PolicyCache()
    first = get(cache, bench)
    for number in range(MAX_CACHED):
        get(cache, bench, tier=f"tier{number}")
    assert get(cache, bench) is not first


def test_one_decision_has_one_refusal() -> None:
    """A decision that is given again is answered alike; beyond so many it is written anew."""
    gate = LimiterBench(ALL).http_limiter
    decisions = [
        Decision(Outcome.DENIED, Source.CACHE, retry_after_us=number)
        for number in range(MAX_CACHED_REJECTIONS + 1)
    ]
    first = gate.rejection_response(decisions[0])
    assert gate.rejection_response(decisions[0]) is first
    for decision in decisions[1:]:
        gate.rejection_response(decision)
    assert len(gate._rejection_cache) == 1
    assert gate.rejection_response(decisions[0]).body == first.body


LIMITS = (rate_quota("5/minute"),), (rate_quota("5/second"),), (rate_quota("5/hour", burst=9),)
VERDICTS = [
    None,
    *itertools.starmap(
        BucketStatus, itertools.product([True], [0, 1], [0], [0, 1, 1_000_001], [0, 9])
    ),
]
RESULTS = [
    PolicyResult(name, mode, Outcome.ALLOWED, quotas, (verdict,))
    for name, mode, quotas, verdict in itertools.product(["a", "b"], Mode, LIMITS, VERDICTS)
]


@pytest.mark.parametrize(
    "dialect", [HeaderFormat.DRAFT_11, HeaderFormat.X_RATELIMIT, HeaderFormat.NONE]
)
def test_fields_that_are_kept_are_those_of_the_decision(dialect: HeaderFormat) -> None:
    """Whatever was decided before, a response says what its own decision does."""
    gate = LimiterBench(ALL, header_format=dialect).http_limiter
    for result in RESULTS * 2:
        decision = Decision(Outcome.ALLOWED, Source.STORE, (result,), spent=True)
        assert gate.raw_response_headers(decision) == encode_headers(
            gate.response_headers(decision)
        )


def test_fields_do_not_fill_the_memory() -> None:
    """Fields that come out the same are written once; beyond so many they are written anew."""
    gate = LimiterBench(ALL).http_limiter

    def told(remaining: int) -> list[tuple[bytes, bytes]]:
        verdict = BucketStatus(
            allowed=True,
            remaining=remaining,
            retry_after_us=0,
            next_unit_after_us=1,
            reset_after_us=1,
        )
        result = PolicyResult("all", Mode.ENFORCE, Outcome.ALLOWED, LIMITS[0], (verdict,))
        return gate.raw_response_headers(Decision(Outcome.ALLOWED, Source.STORE, (result,)))

    first = told(0)
    assert told(0) is first
    for remaining in range(MAX_CACHED_HEADERS + 1):
        told(remaining)
    assert told(0) is not first
    assert told(0) == first
