"""Policy sets: which policies apply to a request."""

import pytest

from fleetlimit.core.policy import Match, Mode, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import UNVERIFIED_TIER
from fleetlimit.errors import ConfigError

LIMITS = (rate_quota("5/minute"),)


def policy(name: str, match: Match | None = None, mode: Mode = Mode.ENFORCE) -> Policy:
    return Policy(name, LIMITS, match=match, mode=mode)


def names(policies: tuple[Policy, ...]) -> list[str]:
    return [each.name for each in policies]


def test_policies_of_all_tiers_apply_to_unverified_callers() -> None:
    """Neither the policies of a tier nor `default` can be evaded by a false credential."""
    free = policy("free", Match(routes=("/exports",), tiers=frozenset({"free"})))
    pro = policy("pro", Match(tiers=frozenset({"pro"})))
    policies = PolicySet([policy("default"), free, pro])
    assert names(policies.select("POST", "/exports", UNVERIFIED_TIER)) == ["free", "pro", "default"]
    assert names(policies.select("POST", "/other", UNVERIFIED_TIER)) == ["pro", "default"]
    assert names(policies.select("POST", "/exports", "")) == ["default"]
    every = PolicySet([*policies.policies, policy("all", Match())])
    assert names(every.select("POST", "/other", UNVERIFIED_TIER)) == ["pro", "all"]


def test_policy_set_rejects_duplicate_names() -> None:
    """A set contains each name once."""
    with pytest.raises(ConfigError, match="two policies are named 'b': rename one"):
        PolicySet([policy("a"), policy("b"), policy("b")])


def test_policy_set_returns_a_policy_by_name() -> None:
    """A policy is found by its name, and None for an unknown name."""
    one = policy("a")
    found = PolicySet([one], generation=3, digest="d", source="file")
    assert (found.get("a"), found.get("b")) == (one, None)
    assert (found.generation, found.digest, found.source) == (3, "d", "file")


EXPORTS = Match(methods=frozenset({"POST"}), routes=("/exports",))


def test_default_policy_applies_to_unmatched_requests() -> None:
    """`default` applies to a route that no policy matches, and not to one that is matched."""
    policies = PolicySet([policy("default"), policy("exports", EXPORTS), policy("all", Match())])
    few = PolicySet([policy("default"), policy("exports", EXPORTS)])
    assert names(few.select("POST", "/exports", "")) == ["exports"]
    assert names(few.select("GET", "/exports", "")) == ["default"]
    assert names(policies.select("POST", "/exports", "")) == ["exports", "all"]


def test_default_policy_applies_to_an_unmatched_route() -> None:
    """A request without a route is limited, too (slowapi #281)."""
    assert names(PolicySet([policy("default")]).select("GET", "unmatched", "")) == ["default"]


def test_policy_without_match_applies_only_by_name() -> None:
    """A policy without `match` is for the code that names it; only `default` needs none."""
    assert PolicySet([policy("named")]).select("GET", "/", "") == ()


@pytest.mark.parametrize(
    "tried",
    [
        policy("exports", EXPORTS, Mode.SHADOW),
        Policy("exports", LIMITS, match=EXPORTS, enforce_percent=99),
    ],
    ids=["shadow", "percent"],
)
def test_default_policy_applies_beside_a_shadow_policy(tried: Policy) -> None:
    """While a policy is not enforced for every caller, `default` applies to its requests, too."""
    policies = PolicySet([policy("default"), tried])
    assert names(policies.select("POST", "/exports", "")) == ["exports", "default"]
    assert names(policies.for_route("POST", "/exports")) == ["exports", "default"]
    enforced = PolicySet([policy("default"), tried, policy("all", Match())])
    assert names(enforced.select("POST", "/exports", "")) == ["exports", "all"]


def test_disabled_policy_does_not_apply() -> None:
    """`default` applies to its requests, unless that is off, too."""
    off = policy("exports", EXPORTS, Mode.OFF)
    assert names(PolicySet([policy("default"), off]).select("POST", "/exports", "")) == ["default"]
    assert PolicySet([policy("default", mode=Mode.OFF), off]).select("POST", "/exports", "") == ()


def test_match_tiers_leave_other_tiers_to_default() -> None:
    """A policy for some tiers applies to them; `default` applies to the other tiers."""
    vip = policy("vip", Match(routes=("/exports",), tiers=frozenset({"pro", "max"})))
    policies = PolicySet([policy("default"), vip])
    assert names(policies.select("GET", "/exports", "pro")) == ["vip"]
    assert names(policies.select("GET", "/exports", "free")) == ["default"]
    assert names(policies.for_route("GET", "/exports")) == ["vip", "default"]
    assert names(policies.for_route("GET", "/other")) == ["default"]


def test_default_policy_does_not_apply_where_all_tiers_are_matched() -> None:
    """A route with an enforced policy for all tiers never has `default`."""
    vip = policy("vip", Match(tiers=frozenset({"pro"})))
    policies = PolicySet([policy("default"), vip, policy("exports", EXPORTS)])
    assert names(policies.for_route("POST", "/exports")) == ["vip", "exports"]
    assert names(policies.select("POST", "/exports", "free")) == ["exports"]
    assert names(policies.select("POST", "/exports", "pro")) == ["vip", "exports"]
