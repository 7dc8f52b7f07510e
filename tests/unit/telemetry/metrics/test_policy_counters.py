"""Denials by route and tier, in a bounded number of series."""

import pytest

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.core.policy import Match, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.limiter.events import PoliciesLoaded
from fleetlimit.telemetry.metrics.policy_counters import MAX_ROUTES, MAX_ZERO_DENIALS
from fleetlimit.telemetry.metrics.policy_labels import MAX_POLICIES, MAX_TIERS
from support.observed import ObservedMetrics
from support.telemetry import TEN_A_MINUTE, decision_event, policy_result

TEN = (TEN_A_MINUTE,)
LABELS = ("policy", "route", "tier", "outcome")


def loaded(*tiers: str, name: str = "a") -> PoliciesLoaded:
    """Return the event of a policy set that names these tiers and no other."""
    return PoliciesLoaded(PolicySet([Policy(name, TEN, dict.fromkeys(tiers, TEN))]))


def denials(observed: ObservedMetrics) -> dict[tuple[str, ...], float]:
    """Return the denials, by all labels."""
    return {
        tuple(sample.labels[label] for label in LABELS): sample.value
        for sample in observed.samples("fleetlimit_denials_total")
    }


def near(observed: ObservedMetrics, label: str = "tier") -> dict[str, float]:
    """Return the requests near a limit, by tier or policy, without zeros."""
    samples = observed.samples("fleetlimit_near_limit_total")
    return {sample.labels[label]: sample.value for sample in samples if sample.value}


def test_denials_are_counted_by_route_and_tier() -> None:
    """A denial, also by a shadow policy, counts its route and tier."""
    observed = ObservedMetrics(
        loaded("free", "pro"),
        decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), tier="free"),
        decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), tier="free"),
        decision_event(
            Outcome.DENIED, policy_result("a", Outcome.DENIED), tier="pro", route="POST /exports"
        ),
        decision_event(
            Outcome.SHADOW_DENIED, policy_result("a", Outcome.SHADOW_DENIED), tier="pro"
        ),
    )
    assert denials(observed) == {
        ("a", "GET /items", "free", "denied"): 2,
        ("a", "POST /exports", "pro", "denied"): 1,
        ("a", "GET /items", "pro", "shadow_denied"): 1,
    }


def test_only_denying_policies_count_denials() -> None:
    """Admitted requests, failures of the store and policies that did not deny count no denial."""
    observed = ObservedMetrics(
        decision_event(Outcome.ALLOWED),
        decision_event(Outcome.FAIL_OPEN),
        decision_event(Outcome.FAIL_CLOSED),
        decision_event(Outcome.DENIED, policy_result("a"), policy_result("b", Outcome.DENIED)),
    )
    assert list(denials(observed)) == [("b", "GET /items", "none", "denied")]


def test_denials_add_up_to_decisions() -> None:
    """Over all routes and tiers a policy has as many denials as denied decisions."""
    both = (policy_result("a", Outcome.DENIED), policy_result("b", Outcome.DENIED))
    observed = ObservedMetrics(
        loaded("pro"),
        *(
            decision_event(Outcome.DENIED, *both, tier=tier, route=route)
            for tier in ("", "pro", "made up")
            for route in ("GET /items", "GET /exports", UNMATCHED_ROUTE)
        ),
    )
    assert observed.decisions() == {("a", "denied"): 9, ("b", "denied"): 9}
    for policy in ("a", "b"):
        assert sum(n for labels, n in denials(observed).items() if labels[0] == policy) == 9


def test_tier_label_is_a_tier_of_an_active_policy() -> None:
    """A tier of `tiers` or `match` is a label; any other is `other`, and no tier is `none`."""
    only = Policy("b", TEN, match=Match(tiers=frozenset({"gold"})))
    tiers = PolicySet([Policy("a", TEN, {"free": TEN}), Policy("c", TEN, match=Match()), only])
    observed = ObservedMetrics(PoliciesLoaded(tiers))
    for tier in ("free", "gold", "", "invented-1", "invented-2"):
        observed.on_events(
            decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), tier=tier),
            decision_event(Outcome.ALLOWED, policy_result("a", remaining=0), tier=tier),
        )
    found = {"free": 1, "gold": 1, "none": 1, "other": 2}
    assert {labels[2]: count for labels, count in denials(observed).items()} == found
    assert near(observed) == found


def test_tier_removed_by_a_reload_is_other() -> None:
    """After a reload the tiers are those of the new policies, and counts stay."""
    denied = decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), tier="old")
    almost = decision_event(Outcome.ALLOWED, policy_result("a", remaining=0), tier="old")
    observed = ObservedMetrics(loaded("old"), denied, almost, loaded("new"), denied, almost)
    assert {labels[2]: count for labels, count in denials(observed).items()} == {
        "old": 1,
        "other": 1,
    }
    assert near(observed) == {"old": 1, "other": 1}
    observed.on_events(loaded("old"), denied)
    assert denials(observed)["a", "GET /items", "old", "denied"] == 2


def test_policy_removed_by_a_reload_still_counts() -> None:
    """Requests in flight during a reload count under the removed policy."""
    denied = decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED))
    observed = ObservedMetrics(loaded(), denied, loaded(name="b"), denied)
    assert denials(observed) == {("a", "GET /items", "none", "denied"): 2}
    assert observed.decisions() == {("a", "denied"): 2}


def test_policy_labels_are_bounded(log: pytest.LogCaptureFixture) -> None:
    """Further policies are counted together as `other`, and one warning says so."""
    observed = ObservedMetrics(loaded(name="first"))
    beyond = 20
    for number in range(MAX_POLICIES + beyond):
        denied = policy_result(f"p{number}", Outcome.DENIED)
        near_limit = policy_result(f"p{number}", remaining=0)
        observed.on_events(
            decision_event(Outcome.DENIED, denied), decision_event(Outcome.ALLOWED, near_limit)
        )
    found = denials(observed)
    assert len({labels[0] for labels in found}) == MAX_POLICIES
    # One policy was loaded before, and has a label as well.
    assert found["other", "GET /items", "none", "denied"] == beyond + 1
    assert sum(near(observed, "policy").values()) == MAX_POLICIES + beyond
    assert sum(observed.decisions().values()) == 2 * (MAX_POLICIES + beyond)
    assert len(observed.metrics.render()[0].splitlines()) < 26 * MAX_POLICIES
    assert len([line for line in log.messages if "metrics.policies_limited" in line]) == 1


def test_tier_labels_are_bounded(log: pytest.LogCaptureFixture) -> None:
    """Tiers beyond the bound are counted as `other`, and one warning says so."""
    tiers = {f"t{number}": TEN for number in range(3_000)}
    observed = ObservedMetrics(PoliciesLoaded(PolicySet([Policy("a", TEN, tiers=tiers)])))
    for tier in ("t0", "t2999"):
        denied = policy_result("a", Outcome.DENIED)
        observed.on_events(decision_event(Outcome.DENIED, denied, tier=tier))
    assert denials(observed) == {
        ("a", "GET /items", "t0", "denied"): 1,
        ("a", "GET /items", "other", "denied"): 1,
    }
    assert len(observed.metrics.render()[0].splitlines()) < 20 * MAX_TIERS
    assert len([line for line in log.messages if "metrics.tiers_limited" in line]) == 1


def test_gauges_of_policies_are_bounded() -> None:
    """Policies without a label of their own have no limit to export; all of them are counted."""
    many = PolicySet([Policy(f"p{number}", TEN) for number in range(MAX_POLICIES + 9)])
    observed = ObservedMetrics(PoliciesLoaded(many), PoliciesLoaded(many))
    assert len(observed.samples("fleetlimit_policy_limit")) == MAX_POLICIES
    assert observed.value("fleetlimit_policies_loaded") == MAX_POLICIES + 9
    assert observed.value("fleetlimit_decisions_total", policy="other", outcome="denied") == 0


def test_tiers_of_other_policies_have_no_series_before_traffic() -> None:
    """The series do not grow with the product of policies and tiers."""
    policies = [Policy(f"p{number}", TEN, {f"t{number}": TEN}) for number in range(50)]
    observed = ObservedMetrics(PoliciesLoaded(PolicySet(policies)))
    assert len(observed.samples("fleetlimit_near_limit_total")) == 50 * 3
    observed.on_events(decision_event(Outcome.ALLOWED, policy_result("p1", remaining=0), tier="t2"))
    assert near(observed) == {"t2": 1}


def test_request_without_a_route_has_its_own_label() -> None:
    """No route of an app can have this label."""
    observed = ObservedMetrics(decision_event(Outcome.DENIED, route=UNMATCHED_ROUTE))
    assert list(denials(observed)) == [("default", "(none)", "none", "denied")]


def test_route_labels_are_bounded() -> None:
    """Beyond the bound routes are counted together, whatever a check passes as its route."""
    observed = ObservedMetrics(loaded())
    for number in range(MAX_ROUTES + 7):
        observed.on_events(decision_event(Outcome.DENIED, route=f"GET /{number}"))
    observed.metrics.flush()
    assert len(observed.metrics._policy_counters._children["default"].denials) == MAX_ROUTES
    observed.on_events(loaded(), decision_event(Outcome.DENIED, route="GET /new"))
    observed.on_events(decision_event(Outcome.DENIED, route="GET /0"))
    found = denials(observed)
    assert len(found) == MAX_ROUTES + 1
    assert found["default", "(others)", "none", "denied"] == 8
    assert found["default", "GET /0", "none", "denied"] == 2


def test_denials_of_limited_routes_start_at_zero() -> None:
    """A denial is an increase: the series exists before, for each tier that the policy names."""
    policy = Policy("a", TEN, {"pro": TEN})
    observed = ObservedMetrics(PoliciesLoaded(PolicySet([policy])))
    observed.metrics.on_routes_limited([("GET /items", policy), (UNMATCHED_ROUTE, policy)])
    assert denials(observed) == {
        ("a", route, tier, "denied"): 0
        for route in ("GET /items", "(none)")
        for tier in ("pro", "none", "other")
    }
    observed.on_events(
        decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), tier="pro")
    )
    assert denials(observed)["a", "GET /items", "pro", "denied"] == 1
    assert len(denials(observed)) == 6


@pytest.mark.parametrize(
    ("policy", "outcomes"),
    [
        (Policy("a", TEN, mode="shadow"), {"shadow_denied"}),
        (Policy("a", TEN, enforce_percent=50), {"denied", "shadow_denied"}),
        (Policy("a", TEN, enforce_percent=0), {"shadow_denied"}),
        (Policy("a", TEN, mode="off"), set()),
    ],
)
def test_denials_start_at_zero_with_the_outcomes_of_the_mode(
    policy: Policy, outcomes: set[str]
) -> None:
    """A policy has series only of outcomes that it can have."""
    observed = ObservedMetrics(PoliciesLoaded(PolicySet([policy])))
    observed.metrics.on_routes_limited([("GET /items", policy)])
    assert {labels[3] for labels in denials(observed)} == outcomes


def test_denials_that_start_at_zero_are_bounded() -> None:
    """Over all policies and reloads; beyond the bound a series begins with its first denial."""
    observed = ObservedMetrics()
    for number in range(MAX_ZERO_DENIALS // 2 + 9):
        policy = Policy(f"p{number % 40}", TEN)
        observed.on_events(PoliciesLoaded(PolicySet([policy])))
        observed.metrics.on_routes_limited([(f"GET /{number}", policy)])
    assert len(denials(observed)) == MAX_ZERO_DENIALS
    observed.on_events(decision_event(Outcome.DENIED, route="GET /new"))
    observed.on_events(decision_event(Outcome.DENIED, policy_result("p0", Outcome.DENIED)))
    assert denials(observed)["default", "GET /new", "none", "denied"] == 1
    assert denials(observed)["p0", "GET /items", "none", "denied"] == 1


def test_denials_count_on_after_a_reload() -> None:
    """A reload neither resets a count nor adds a second series."""
    policy = Policy("a", TEN)
    denied = decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED))
    observed = ObservedMetrics()
    for _ in range(2):
        observed.on_events(PoliciesLoaded(PolicySet([policy])))
        observed.metrics.on_routes_limited([("GET /items", policy)])
        observed.on_events(denied)
    assert denials(observed) == {
        ("a", "GET /items", "none", "denied"): 2,
        ("a", "GET /items", "other", "denied"): 0,
    }


def test_local_admissions_are_counted_by_policy() -> None:
    """Requests that the store did not decide, without those that the local share denied."""
    allowed, denied = policy_result("a"), policy_result("a", Outcome.DENIED)
    opened = policy_result("b", Outcome.FAIL_OPEN)
    observed = ObservedMetrics(
        loaded(),
        decision_event(Outcome.ALLOWED, allowed),
        decision_event(Outcome.ALLOWED, allowed, opened, source=Source.LOCAL),
        decision_event(Outcome.DENIED, denied, source=Source.LOCAL),
    )
    assert {
        sample.labels["policy"]: sample.value
        for sample in observed.samples("fleetlimit_local_admissions_total")
    } == {"a": 1, "b": 0}


def test_admissions_are_counted_by_tier() -> None:
    """Those near the limit are among them: their share is one of the requests of the tier."""
    observed = ObservedMetrics(
        loaded("free"),
        decision_event(Outcome.ALLOWED, policy_result("a"), tier="free"),
        decision_event(Outcome.ALLOWED, policy_result("a", remaining=1), tier="free"),
        decision_event(Outcome.ALLOWED, policy_result("a"), tier="pro"),
        decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), tier="free"),
        decision_event(Outcome.FAIL_OPEN, policy_result("a", Outcome.FAIL_OPEN), tier="free"),
    )
    assert {
        sample.labels["tier"]: sample.value
        for sample in observed.samples("fleetlimit_admissions_total")
    } == {"free": 2, "none": 0, "other": 1}
    assert near(observed) == {"free": 1}
