"""What is kept between requests is right for the next one, and bounded whatever clients send."""

import itertools

import pytest

from fleetlimit import RateLimit
from fleetlimit.core.decision import BucketStatus, Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import KeyPart, Match, Mode, PolicySet
from fleetlimit.core.quota import SECOND_US, rate_quota
from fleetlimit.web.http_limiter import MAX_CACHED_HEADERS as MAX_FIELDS
from fleetlimit.web.ratelimit_headers import HeaderFormat, encode_headers
from fleetlimit.web.responses import MAX_REJECTIONS
from fleetlimit.web.route_policies import MAX_CACHED, UNASKED, ApplicablePolicies, PolicyCache
from support.web import LimiterBench, rate_policy

ALL = rate_policy("all", "5/minute", match=Match(), key=(KeyPart.parse("header:x-team"),))
ASKS = (RateLimit("2/second", cost=3, burst=9),)


def find(
    wants: PolicyCache, bench: LimiterBench, method: str = "GET", tier: str = ""
) -> ApplicablePolicies:
    return wants.get(bench.http_limiter, ASKS, method, "/items", tier)


def test_what_is_wanted_is_found_once() -> None:
    """Requests of one method and tier ask for the same: policies, costs and headers are kept."""
    bench, wants = LimiterBench(ALL), PolicyCache()
    first = find(wants, bench)
    assert [(policy.name, cost) for policy, cost in first.policy_costs] == [
        ("all", 1),
        (first.names[1], 3),
    ]
    assert first.key_headers == {"x-team"}
    assert find(wants, bench) is first
    assert find(wants, bench, "POST") is not first
    assert find(wants, bench, tier="pro") is not first
    assert find(wants, bench) is first


def test_only_dependencies_are_asked_where_nothing_is_to_match() -> None:
    """Without a method the policies that match the request are left out."""
    wanted = find(PolicyCache(), LimiterBench(ALL), UNASKED)
    assert "all" not in wanted.names
    assert len(wanted.policy_costs) == 1


def test_new_policies_are_asked_for_at_once() -> None:
    """What was found under other policies is found anew."""
    bench, wants = LimiterBench(ALL), PolicyCache()
    assert "all" in find(wants, bench).names
    bench.limiter.active_policies.replace(PolicySet())
    assert "all" not in find(wants, bench).names


def test_other_dependencies_ask_for_their_own() -> None:
    """What was found for some dependencies is not what others ask for."""
    bench, wants = LimiterBench(ALL), PolicyCache()
    find(wants, bench)
    assert wants.get(bench.http_limiter, (), "GET", "/items", "").names == ("all",)


def test_words_that_are_no_methods_are_not_kept() -> None:
    """A client that makes up methods does not fill the memory."""
    bench, wants = LimiterBench(ALL), PolicyCache()
    kept = find(wants, bench)
    made_up = find(wants, bench, "BREW")
    assert find(wants, bench, "BREW") is not made_up
    assert find(wants, bench) is kept


def test_many_tiers_do_not_fill_the_memory() -> None:
    """Beyond so many tiers what is kept is found anew."""
    bench, wants = LimiterBench(ALL), PolicyCache()
    first = find(wants, bench)
    for number in range(MAX_CACHED):
        find(wants, bench, tier=f"tier{number}")
    assert find(wants, bench) is not first


def test_one_decision_has_one_refusal() -> None:
    """Equal decisions have one response; the cache of responses is bounded."""
    gate = LimiterBench(ALL).http_limiter

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

    first = gate.rejection_response(denied(1))
    assert gate.rejection_response(denied(1)) is first
    for seconds in range(2, MAX_REJECTIONS + 2):
        gate.rejection_response(denied(seconds))
    assert len(gate._rejection_cache) == MAX_REJECTIONS
    assert gate.rejection_response(denied(1)).body == first.body
    without_limits = Decision(Outcome.DENIED, Source.CACHE, retry_after_us=1)
    assert gate.rejection_response(without_limits).body != first.body
    assert len(gate._rejection_cache) == MAX_REJECTIONS


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
    for remaining in range(MAX_FIELDS + 1):
        told(remaining)
    assert told(0) is not first
    assert told(0) == first
