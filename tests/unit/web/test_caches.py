"""What is kept between requests is right for the next one, and bounded whatever clients send."""

import itertools

import pytest

from fleetlimit import RateLimit
from fleetlimit.core.decision import Decision, Outcome, PolicyResult, Source, Verdict
from fleetlimit.core.policy import KeyPart, Match, Mode, PolicySet
from fleetlimit.core.quota import rate_quota
from fleetlimit.web.http_limiter import MAX_KEPT as MAX_FIELDS
from fleetlimit.web.ratelimit_headers import Dialect, raw
from fleetlimit.web.responses import MAX_REJECTIONS
from fleetlimit.web.route_policies import MAX_KEPT, UNASKED, Wanted, Wants
from support.web import GateBench, rate

ALL = rate("all", "5/minute", match=Match(), key=(KeyPart.parse("header:x-team"),))
ASKS = (RateLimit("2/second", cost=3, burst=9),)


def find(wants: Wants, bench: GateBench, method: str = "GET", tier: str = "") -> Wanted:
    return wants.find(bench.gate, ASKS, method, "/items", tier)


def test_what_is_wanted_is_found_once() -> None:
    """Requests of one method and tier ask for the same: policies, costs and headers are kept."""
    bench, wants = GateBench(ALL), Wants()
    first = find(wants, bench)
    assert [(policy.name, cost) for policy, cost in first.pairs] == [
        ("all", 1),
        (first.names[1], 3),
    ]
    assert first.headers == {"x-team"}
    assert find(wants, bench) is first
    assert find(wants, bench, "POST") is not first
    assert find(wants, bench, tier="pro") is not first
    assert find(wants, bench) is first


def test_only_dependencies_are_asked_where_nothing_is_to_match() -> None:
    """Without a method the policies that match the request are left out."""
    wanted = find(Wants(), GateBench(ALL), UNASKED)
    assert "all" not in wanted.names
    assert len(wanted.pairs) == 1


def test_new_policies_are_asked_for_at_once() -> None:
    """What was found under other policies is found anew."""
    bench, wants = GateBench(ALL), Wants()
    assert "all" in find(wants, bench).names
    bench.limiter.policies.replace(PolicySet())
    assert "all" not in find(wants, bench).names


def test_other_dependencies_ask_for_their_own() -> None:
    """What was found for some dependencies is not what others ask for."""
    bench, wants = GateBench(ALL), Wants()
    find(wants, bench)
    assert wants.find(bench.gate, (), "GET", "/items", "").names == ("all",)


def test_words_that_are_no_methods_are_not_kept() -> None:
    """A client that makes up methods does not fill the memory."""
    bench, wants = GateBench(ALL), Wants()
    kept = find(wants, bench)
    made_up = find(wants, bench, "BREW")
    assert find(wants, bench, "BREW") is not made_up
    assert find(wants, bench) is kept


def test_many_tiers_do_not_fill_the_memory() -> None:
    """Beyond so many tiers what is kept is found anew."""
    bench, wants = GateBench(ALL), Wants()
    first = find(wants, bench)
    for number in range(MAX_KEPT):
        find(wants, bench, tier=f"tier{number}")
    assert find(wants, bench) is not first


def test_one_decision_has_one_refusal() -> None:
    """A decision that is given again is answered alike; beyond so many it is written anew."""
    gate = GateBench(ALL).gate
    decisions = [
        Decision(Outcome.DENIED, Source.CACHE, retry_after_us=number)
        for number in range(MAX_REJECTIONS + 1)
    ]
    first = gate.refusal(decisions[0])
    assert gate.refusal(decisions[0]) is first
    for decision in decisions[1:]:
        gate.refusal(decision)
    assert len(gate.refusals) == 1
    assert gate.refusal(decisions[0]).body == first.body


LIMITS = (rate_quota("5/minute"),), (rate_quota("5/second"),), (rate_quota("5/hour", burst=9),)
VERDICTS = [
    None,
    *itertools.starmap(Verdict, itertools.product([True], [0, 1], [0], [0, 1, 1_000_001], [0, 9])),
]
RESULTS = [
    PolicyResult(name, mode, Outcome.ALLOWED, quotas, (verdict,))
    for name, mode, quotas, verdict in itertools.product(["a", "b"], Mode, LIMITS, VERDICTS)
]


@pytest.mark.parametrize("dialect", [Dialect.DRAFT_11, Dialect.X_RATELIMIT, Dialect.NONE])
def test_fields_that_are_kept_are_those_of_the_decision(dialect: Dialect) -> None:
    """Whatever was decided before, a response says what its own decision does."""
    gate = GateBench(ALL, dialect=dialect).gate
    for result in RESULTS * 2:
        decision = Decision(Outcome.ALLOWED, Source.STORE, (result,), spent=True)
        assert gate.fields(decision) == raw(gate.headers(decision))


def test_fields_do_not_fill_the_memory() -> None:
    """Fields that come out the same are written once; beyond so many they are written anew."""
    gate = GateBench(ALL).gate

    def told(remaining: int) -> list[tuple[bytes, bytes]]:
        verdict = Verdict(fits=True, remaining=remaining, retry_us=0, next_us=1, reset_us=1)
        result = PolicyResult("all", Mode.ENFORCE, Outcome.ALLOWED, LIMITS[0], (verdict,))
        return gate.fields(Decision(Outcome.ALLOWED, Source.STORE, (result,)))

    first = told(0)
    assert told(0) is first
    for remaining in range(MAX_FIELDS + 1):
        told(remaining)
    assert told(0) is not first
    assert told(0) == first
