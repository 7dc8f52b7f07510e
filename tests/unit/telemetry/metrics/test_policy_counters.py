"""Refusals are told apart by route and tier, in a bounded number of series."""

from fleetlimit.core.decision import Outcome
from fleetlimit.core.policy import Match, Policy, PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.limiter.events import PoliciesLoaded
from fleetlimit.telemetry.metrics.policy_counters import MAX_ROUTES
from support.observed import ObservedMetrics
from support.telemetry import TEN_A_MINUTE, decision_event, policy_result

TEN = (TEN_A_MINUTE,)
LABELS = ("policy", "route", "tier", "outcome")


def loaded(*tiers: str, name: str = "a") -> PoliciesLoaded:
    """Return policies that name these tiers and no other."""
    return PoliciesLoaded(PolicySet([Policy(name, TEN, dict.fromkeys(tiers, TEN))]))


def denials(observed: ObservedMetrics) -> dict[tuple[str, ...], float]:
    """Return what was refused, by all labels."""
    return {
        tuple(sample.labels[label] for label in LABELS): sample.value
        for sample in observed.samples("fleetlimit_denials_total")
    }


def near(observed: ObservedMetrics) -> dict[str, float]:
    """Return the requests near a limit, by tier, where there were any."""
    samples = observed.samples("fleetlimit_near_limit_total")
    return {sample.labels["tier"]: sample.value for sample in samples if sample.value}


def test_refusals_are_told_apart_by_route_and_tier() -> None:
    """A denial, and what a shadow policy would have denied, counts its route and tier."""
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


def test_only_refusals_are_denials() -> None:
    """What was let in, failed open or closed, or did not itself refuse, is no denial."""
    observed = ObservedMetrics(
        decision_event(Outcome.ALLOWED),
        decision_event(Outcome.FAIL_OPEN),
        decision_event(Outcome.FAIL_CLOSED),
        decision_event(Outcome.DENIED, policy_result("a"), policy_result("b", Outcome.DENIED)),
    )
    assert list(denials(observed)) == [("b", "GET /items", "none", "denied")]


def test_denials_add_up_to_decisions() -> None:
    """Over all routes and tiers there are as many denials of a policy as denied decisions."""
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


def test_tier_is_one_that_a_policy_names() -> None:
    """A tier of `tiers` or `match` is shown; any other is `other`, and no tier is `none`."""
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


def test_tier_that_a_reload_takes_away_is_other() -> None:
    """After a reload the tiers are those of the new policies, and what was counted stays."""
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


def test_policy_that_a_reload_takes_away_counts_on() -> None:
    """What was under way while a policy left is counted where the policy's other requests are."""
    denied = decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED))
    observed = ObservedMetrics(loaded(), denied, loaded(name="b"), denied)
    assert denials(observed) == {("a", "GET /items", "none", "denied"): 2}
    assert observed.decisions() == {("a", "denied"): 2}


def test_request_without_a_route_is_told_so() -> None:
    """A request that no route matched has a route of its own, which none can be named."""
    observed = ObservedMetrics(decision_event(Outcome.DENIED, route=UNMATCHED_ROUTE))
    assert list(denials(observed)) == [("default", "(none)", "none", "denied")]


def test_routes_are_bounded() -> None:
    """Beyond a bound routes are counted together, whatever a check names and however often."""
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
