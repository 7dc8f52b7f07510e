"""Policies: which requests they apply to, their limits, and invalid ones."""

from typing import Any

import pytest

from fleetlimit.core.policy import (
    KeyKind,
    KeyPart,
    Match,
    Mode,
    OnStoreError,
    Policy,
    PolicySet,
)
from fleetlimit.core.quota import Limit, Quota, concurrency_quota, rate_quota
from fleetlimit.core.subject import UNVERIFIED_TIER
from fleetlimit.errors import ConfigError

MINUTE, DAY = rate_quota("5/minute"), rate_quota("1000/day")
LIMITS = (MINUTE,)


def policy(name: str, match: Match | None = None, mode: Mode = Mode.ENFORCE) -> Policy:
    return Policy(name, LIMITS, match=match, mode=mode)


def names(policies: tuple[Policy, ...]) -> list[str]:
    return [each.name for each in policies]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("principal", KeyPart(KeyKind.PRINCIPAL)),
        ("client_address", KeyPart(KeyKind.CLIENT_ADDRESS)),
        ("route", KeyPart(KeyKind.ROUTE)),
        ("global", KeyPart(KeyKind.GLOBAL)),
        ("header:X-Tenant", KeyPart(KeyKind.HEADER, "x-tenant")),
    ],
)
def test_key_part_parses(text: str, part: KeyPart) -> None:
    """A key part names a request property; header names are in lower case."""
    assert KeyPart.parse(text) == part


@pytest.mark.parametrize(
    "text",
    ["", "ip", "Principal", "header", "header:", "header:a b", "header:a:b", "route:x", "global:"],
)
def test_key_part_rejects_unknown_text(text: str) -> None:
    """The message lists the valid keys."""
    with pytest.raises(ConfigError, match=r"write principal, client_address, header:<name>, route"):
        KeyPart.parse(text)


@pytest.mark.parametrize(
    ("match", "method", "template", "held"),
    [
        (Match(), "GET", "/a", True),
        (Match(methods=frozenset({"POST"})), "POST", "/a", True),
        (Match(methods=frozenset({"POST"})), "GET", "/a", False),
        (Match(methods=frozenset({"GET"})), "HEAD", "/a", True),
        (Match(methods=frozenset({"HEAD"})), "GET", "/a", False),
        (Match(methods=frozenset({"POST"})), "HEAD", "/a", False),
        (Match(routes=("/a", "/b")), "GET", "/b", True),
        (Match(routes=("/a",)), "GET", "/a/", False),
        (Match(routes=("/a/*",)), "GET", "/a/{id}", True),
        (Match(routes=("/a/*",)), "GET", "/a", False),
        (Match(routes=("/items/{id}",)), "GET", "/items/{id}", True),
        (Match(routes=("/items/{id}",)), "GET", "/items/7", False),
        (Match(methods=frozenset({"GET"}), routes=("/a",)), "GET", "/b", False),
        (Match(tiers=frozenset({"pro"})), "GET", "/a", True),
    ],
)
def test_match_compares_methods_and_templates(
    match: Match,
    method: str,
    template: str,
    held: bool,  # noqa: FBT001 - a case's column
) -> None:
    """HEAD matches GET, too; templates match as written or up to a final star."""
    assert match.matches_route(method, template) is held


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "is not a policy name"),
        ({"name": "-a"}, "is not a policy name"),
        ({"name": "a b"}, "is not a policy name"),
        ({"name": 'a"b'}, "is not a policy name"),
        ({"name": "a\n"}, "is not a policy name"),
        ({"name": "é"}, "is not a policy name"),
        ({"name": "a" * 65}, "write 1 to 64 letters"),
        ({"enforce_percent": -1}, "enforce_percent is from 0 to 100, not -1"),
        ({"enforce_percent": 101}, "enforce_percent is from 0 to 100, not 101"),
        ({"enforce_percent": 50.5}, "enforce_percent is a whole number from 0 to 100, not 50.5"),
        ({"enforce_percent": "50"}, "enforce_percent is a whole number from 0 to 100, not '50'"),
        ({"key": ()}, "has an empty key: write principal"),
        ({"limits": ()}, "has no limits: add `limits` or `tiers`"),
        ({"limits": (), "tiers": {"pro": ()}}, "has a tier without limits"),
        ({"tiers": {"pro": (MINUTE, rate_quota("9/minute"))}}, "keep the lower one"),
        ({"limits": (MINUTE, DAY, MINUTE)}, "two limits of one algorithm and period"),
    ],
)
def test_policy_rejects_invalid_values(changes: dict[str, Any], message: str) -> None:
    """Values that cannot work together are an error with the fix in the message."""
    with pytest.raises(ConfigError, match=message):
        Policy(**{"name": "exports", "limits": LIMITS, **changes})


def test_policy_takes_plain_values() -> None:
    """Texts and limits are resolved, and a single value needs no tuple."""
    policy = Policy(
        "exports",
        ("5/minute", Limit.concurrent(2)),
        {"pro": "50/minute"},
        key=("header:X-Tenant", "route"),
        mode="shadow",
        on_store_error="deny",
    )
    assert policy.limits == (MINUTE, concurrency_quota(2))
    assert policy.tiers == {"pro": (rate_quota("50/minute"),)}
    assert policy.key == (KeyPart(KeyKind.HEADER, "x-tenant"), KeyPart(KeyKind.ROUTE))
    assert (policy.mode, policy.on_store_error) == (Mode.SHADOW, OnStoreError.DENY)
    assert Policy("a", "5/minute", key="global") == Policy(
        "a", (MINUTE,), key=(KeyPart(KeyKind.GLOBAL),)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "enforced"}, "'enforced' is not known: write one of enforce, shadow, off"),
        ({"on_store_error": "open"}, "'open' is not known: write one of allow, deny, local"),
        ({"key": "ip"}, "'ip' is not a key: write principal"),
        ({"limits": "many"}, "'many' is not a rate: write 100/second"),
    ],
)
def test_policy_rejects_unknown_words(changes: dict[str, Any], message: str) -> None:
    """The message lists the valid words."""
    with pytest.raises(ConfigError, match=message):
        Policy(**{"name": "exports", "limits": LIMITS, **changes})


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (
            Policy("exports", "5/minute"),
            (
                "Policy('exports', (Limit.rate('5/minute'),), key=('principal',), mode='enforce', "
                "on_store_error='local')"
            ),
        ),
        (
            Policy(
                "exports",
                ("5/minute", Limit.rate("7 per 90 s", burst=90)),
                {"pro": "50/hour"},
                key=("header:X-Tenant", "route"),
                match=Match(),
                enforce_percent=30,
            ),
            (
                "Policy('exports', (Limit.rate('5/minute'), Limit.rate('7 per 90 s', burst=90)), "
                "tiers={'pro': (Limit.rate('50/hour'),)}, key=('header:x-tenant', 'route'), "
                "match=Match(methods=frozenset(), routes=(), tiers=frozenset()), mode='enforce', "
                "enforce_percent=30, on_store_error='local')"
            ),
        ),
        (
            Policy("exports", "50/minute", prefetch=0.1),
            (
                "Policy('exports', (Limit.rate('50/minute'),), key=('principal',), mode='enforce', "
                "on_store_error='local', prefetch=0.1)"
            ),
        ),
    ],
)
def test_policy_repr_shows_plain_values(policy: Policy, text: str) -> None:
    """The text contains what was written, and builds an equal policy."""
    assert repr(policy) == text
    assert eval(text, {"Policy": Policy, "Limit": Limit, "Match": Match}) == policy  # noqa: S307 - the purpose of the test


def test_policy_accepts_the_longest_name() -> None:
    """A name of 64 letters, digits and signs is valid."""
    assert Policy("a" * 58 + "._/-0Z", LIMITS).quotas_for("") == LIMITS


@pytest.mark.parametrize(
    ("limits", "tier", "expected"),
    [
        ((DAY,), "pro", (MINUTE, DAY)),
        ((DAY,), "free", (DAY,)),
        ((DAY,), "", (DAY,)),
        ((), "pro", (MINUTE, DAY)),
        ((), "unknown", (MINUTE,)),
    ],
)
def test_quotas_for_selects_by_tier(
    limits: tuple[Quota, ...], tier: str, expected: tuple[Quota, ...]
) -> None:
    """A tier has its own limits; any other tier has the policy's, or those of the first tier."""
    tiers = {"basic": (MINUTE,), "pro": (MINUTE, DAY)}
    assert Policy("exports", limits, tiers).quotas_for(tier) == expected


@pytest.mark.parametrize(
    ("limits", "tiers", "strictest"),
    [
        ("1000/minute", {"free": "3/minute", "pro": "60/minute"}, ["3/minute"]),
        ("", {"pro": "60/minute", "free": "3/minute"}, ["3/minute"]),
        ("2/minute", {"free": "3/minute"}, ["2/minute"]),
        (
            "60/minute",
            {"burst": rate_quota("60/minute", burst=5)},
            [rate_quota("60/minute", burst=5)],
        ),
        (
            "60/minute",
            {"costly": rate_quota("60/minute", cost=2)},
            [rate_quota("60/minute", cost=2)],
        ),
        # Neither of 6 an hour and 12 a day is the stricter one at every time.
        ("", {"free": "6/hour", "pro": "12/day"}, ["6/hour", "12/day"]),
        ("60/minute", {"held": concurrency_quota(1)}, ["60/minute", concurrency_quota(1)]),
        ("", {"more": concurrency_quota(4), "few": concurrency_quota(2)}, [concurrency_quota(2)]),
    ],
)
def test_limits_of_all_tiers_apply_to_unverified_callers(
    limits: str, tiers: dict[str, Any], strictest: list[Any]
) -> None:
    """A caller of unknown tier keeps the limits of every tier; a shared bucket has the least."""
    tried = Policy("exports", limits or (), tiers)
    expected = [rate_quota(each) if isinstance(each, str) else each for each in strictest]
    assert list(tried.quotas_for(UNVERIFIED_TIER)) == expected


def test_prefetch_applies_to_unverified_callers() -> None:
    """They share the buckets of callers without a credential, which are prefetched."""
    tried = Policy("exports", "600/minute", {"pro": "9000/hour"}, prefetch=0.1)
    assert [quota.burst for quota in tried.quotas_for(UNVERIFIED_TIER)] == [540, 8100]
    assert tried.prefetch_terms(UNVERIFIED_TIER) is not None


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


def test_key_headers_are_collected() -> None:
    """A policy names the request headers that its key is made from, in lower case."""
    keyed = Policy("a", LIMITS, key=(KeyPart.parse("header:X-A"), KeyPart.parse("route")))
    assert keyed.key_headers == {"x-a"}


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
