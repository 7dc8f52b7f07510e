"""Policies: which requests they apply to, their limits, and invalid ones."""

from typing import Any

import pytest

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.limit import Limit
from fleetlimit.core.policy import Match, Mode, OnStoreError, Policy
from fleetlimit.core.prefetch import PrefetchTerms
from fleetlimit.core.quota import SECOND_US, Quota, concurrency_quota, rate_quota
from fleetlimit.core.subject import UNVERIFIED_TIER
from fleetlimit.errors import ConfigError

MINUTE, DAY = rate_quota("5/minute"), rate_quota("1000/day")
LIMITS = (MINUTE,)


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


def plan_of(_connection: object) -> str:
    """Return the limit of a caller."""
    return "60/minute"


def test_policy_repr_names_the_function_of_the_limits() -> None:
    """The name of a function stands for it, as in logs."""
    text = repr(Policy("exports", "5/minute", limits_function=plan_of))
    assert text.endswith(f"on_store_error='local', limits_function={plan_of.__module__}.plan_of)")


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
    assert [quota.burst for quota in tried.quotas_for(UNVERIFIED_TIER)] == [600, 9000]
    # A tenth of 600 per minute; a tenth of 9000 per hour is more, and refills more slowly.
    assert tried.prefetch_terms(UNVERIFIED_TIER) == PrefetchTerms(60, 6 * SECOND_US)


def test_key_headers_are_collected() -> None:
    """A policy names the request headers that its key is made from, in lower case."""
    keyed = Policy("a", LIMITS, key=(KeyPart.parse("header:X-A"), KeyPart.parse("route")))
    assert keyed.key_headers == {"x-a"}


def test_match_of_one_text_is_a_list_of_one() -> None:
    """A text is no list of its characters, which would match no route and so limit nothing."""
    match = Match(methods="post", routes="/exports", tiers="pro")
    assert match == Match(methods=["POST"], routes=["/exports"], tiers=["pro"])
    assert match.matches_route("POST", "/exports")
    assert not match.matches_route("GET", "/exports")
    assert not match.matches_route("POST", "/")


def test_match_of_lists_matches() -> None:
    """Lists, sets and tuples are the same match."""
    match = Match(methods=["GET"], routes=["/a", "/b*"])
    assert match == Match(methods=frozenset({"GET"}), routes=("/a", "/b*"))
    assert match.matches_route("HEAD", "/b/c")
    assert hash(match) == hash(Match(["GET"], ["/a", "/b*"]))
