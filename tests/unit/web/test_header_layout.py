"""Header layouts: formats of other services, custom names, and several at once."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import http_sf
import pytest

from fleetlimit.core.decision import BucketStatus, Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US, Quota, concurrency_quota, rate_quota
from fleetlimit.core.usage import Usage
from fleetlimit.errors import ConfigError
from fleetlimit.web.header_layout import (
    FIELDS,
    HeaderSpec,
    go_duration,
    header_setting,
    parse_layout,
    unit_of,
)
from fleetlimit.web.ratelimit_headers import HeaderFormat
from support.stores import allowed_status, denied_status
from support.web import LimiterBench

NOW_US = 1_700_000_000 * SECOND_US + 400_000
REQUESTS, TOKENS = rate_quota("60/minute"), rate_quota("150000/minute")
ADMITTED = allowed_status(59, 1_000_000, 1_000_000)
MANY_TOKENS = allowed_status(149_984, 1, 360_000_000)
SPENT = denied_status(2, 5_000_001, 1_000_000, 60_000_000)
"""A request of several units waits longer than until the next unit."""


def decided(
    *results: tuple[str, Quota, BucketStatus | None], mode: Mode = Mode.ENFORCE
) -> Decision:
    """Return a decision with one limit for each policy."""
    return Decision(
        Outcome.ALLOWED,
        Source.STORE,
        tuple(
            PolicyResult(name, mode, Outcome.ALLOWED, (quota,), (status,))
            for name, quota, status in results
        ),
    )


def headers(spec: HeaderSpec, decision: Decision) -> dict[str, str]:
    """Return the headers of a decision, each of which appears once."""
    found = parse_layout(spec).headers(decision, unix_us=NOW_US)
    assert len(dict(found)) == len(found)
    return dict(found)


def test_github_format_has_the_fields_of_github() -> None:
    """The reset is a Unix time that is never too early, and the resource is the limit."""
    assert headers("github", decided(("core", REQUESTS, ADMITTED))) == {
        "x-ratelimit-limit": "60",
        "x-ratelimit-remaining": "59",
        "x-ratelimit-used": "1",
        "x-ratelimit-reset": "1700000002",
        "x-ratelimit-resource": "core",
    }


def test_reset_of_a_rejection_is_when_a_retry_is_admitted() -> None:
    """A client that waits until the reset is admitted, also if it needs several units."""
    decision = decided(("core", REQUESTS, SPENT))
    assert headers("github", decision)["x-ratelimit-reset"] == "1700000006"
    assert headers("x-ratelimit", decision)["X-RateLimit-Reset"] == "6"
    assert headers("openai", decision)["x-ratelimit-reset-requests"] == "6s"


def test_openai_format_states_requests_and_tokens() -> None:
    """The values are those of the sample in OpenAI's guide."""
    both = decided(("chat", REQUESTS, ADMITTED), ("chat-tokens", TOKENS, MANY_TOKENS))
    assert headers("openai", both) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-reset-tokens": "6m0s",
    }


def test_openai_format_without_a_policy_of_tokens_has_no_tokens() -> None:
    """Headers of a unit are sent only if a limit counts it."""
    found = headers("openai", decided(("chat", REQUESTS, ADMITTED)))
    assert set(found) == {
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    }


@pytest.mark.parametrize(
    ("policy", "unit"),
    [
        ("tokens", "tokens"),
        ("llm.tokens", "tokens"),
        ("chat-Tokens/minute", "tokens"),
        ("token-refresh", "requests"),
        ("chattokens", "requests"),
        ("default", "requests"),
    ],
)
def test_unit_is_a_word_of_the_policy_name(policy: str, unit: str) -> None:
    """A policy counts tokens if `tokens` is a whole word of its name."""
    assert unit_of(policy) == unit


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (9, "9s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3_599, "59m59s"),
        (3_600, "1h0m0s"),
        (90_061, "25h1m1s"),
    ],
)
def test_duration_is_formatted_as_go_does(seconds: int, text: str) -> None:
    """Hours are the largest unit, and smaller units are not left out."""
    assert go_duration(seconds) == text


def test_draft_next_has_the_parameters_of_the_editors_copy() -> None:
    """The RateLimit field has `a` and `w` in place of `r` and `t`; the policies are the same."""
    found = headers("draft-next", decided(("default", REQUESTS, SPENT)))
    parsed = {name: http_sf.parse(value.encode(), tltype="list") for name, value in found.items()}
    assert parsed == {
        "RateLimit-Policy": [("default", {"q": 60, "w": 60})],
        "RateLimit": [("default", {"a": 2, "w": 1})],
    }


def test_custom_names_have_every_field() -> None:
    """A mapping gives each field the name that an app's clients know."""
    names = {field: f"X-My-{field.replace('_', '-')}" for field in FIELDS}
    found = headers(names, decided(("core", REQUESTS, allowed_status(9, 1, 61_000_000))))
    assert found == {
        "X-My-limit": "60",
        "X-My-remaining": "9",
        "X-My-used": "51",
        "X-My-reset": "61",
        "X-My-reset-duration": "1m1s",
        "X-My-reset-epoch": "1700000062",
        "X-My-reset-at": "2023-11-14T22:14:22Z",
        "X-My-window": "60",
        "X-My-policy": "core",
    }
    assert datetime.fromisoformat(found["X-My-reset-at"]) == datetime.fromtimestamp(
        int(found["X-My-reset-epoch"]), UTC
    )


def test_custom_names_with_a_unit_state_each_unit() -> None:
    """`{unit}` in a name makes one header for each unit, as Anthropic's API has them."""
    names = {
        "remaining": "anthropic-ratelimit-{unit}-remaining",
        "policy": "X-Strictest",
    }
    both = decided(("chat", REQUESTS, ADMITTED), ("tokens", TOKENS, MANY_TOKENS))
    assert headers(names, both) == {
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-tokens-remaining": "149984",
        "X-Strictest": "chat",
    }


@pytest.mark.parametrize(
    "spec",
    [
        "draft-11, github,limit=X-Limit, used=X-Used",
        ["draft-11", "github", {"limit": "X-Limit", "used": "X-Used"}],
        ("draft-11,github", {"limit": "X-Limit"}, {"used": "X-Used"}),
        [HeaderFormat.DRAFT_11, HeaderFormat.GITHUB, "limit=X-Limit", "used=X-Used"],
    ],
)
def test_several_formats_are_sent_together(spec: HeaderSpec) -> None:
    """Text and sequences mean the same, and browsers may read all headers."""
    layout = parse_layout(spec)
    names = [name for name, _ in layout.headers(decided(("core", REQUESTS, ADMITTED)))]
    assert names == [
        "RateLimit-Policy",
        "RateLimit",
        *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-used"),
        *("x-ratelimit-reset", "x-ratelimit-resource"),
        *("X-Limit", "X-Used"),
    ]
    assert set(layout.exposed.split(", ")) == {*names, "Retry-After"}
    assert layout.descriptions().keys() == set(names)
    assert layout.raw_names == {name.lower().encode() for name in names}


def test_setting_is_a_text_that_means_the_same() -> None:
    """The setting of any specification can be an environment variable."""
    spec: HeaderSpec = ["draft-next", {"limit": "X-Limit-{unit}", "used": "X-Used"}]
    text = header_setting(spec)
    assert text == "draft-next,limit=X-Limit-{unit},used=X-Used"
    assert parse_layout(text).names == parse_layout(spec).names
    assert header_setting(" github ") is HeaderFormat.GITHUB


@pytest.mark.parametrize("spec", [*HeaderFormat, {"limit": "X-Limit", "used": "X-{unit}-Used"}])
def test_descriptions_are_those_of_all_headers(spec: HeaderSpec) -> None:
    """Each header that a layout can have is described, and no other."""
    layout = parse_layout(spec)
    assert sorted(layout.descriptions()) == sorted(layout.names)


@pytest.mark.parametrize("spec", [*HeaderFormat, {"limit": "X-Limit"}])
def test_limits_that_were_not_checked_have_no_headers(spec: HeaderSpec) -> None:
    """Without a status, as in an outage, no number is invented."""
    found = headers(spec, decided(("core", REQUESTS, None)))
    assert set(found) <= {"RateLimit-Policy"}


def test_used_is_never_negative() -> None:
    """A bucket that has more than its burst after a reload has used nothing."""
    found = headers({"used": "X-Used"}, decided(("core", REQUESTS, allowed_status(90, 0, 0))))
    assert found == {"X-Used": "0"}


def test_concurrency_limit_is_stated_as_requests() -> None:
    """A limit of requests in progress has the same headers as a rate."""
    found = headers("github", decided(("uploads", concurrency_quota(3), allowed_status(2, 0, 0))))
    assert (found["x-ratelimit-limit"], found["x-ratelimit-used"]) == ("3", "1")


@pytest.mark.parametrize("spec", [True, None, 5, {}, [], "", [[]], b"draft-11", "drafts", ["x", 5]])
def test_unknown_specification_says_what_to_write(spec: Any) -> None:
    """The error lists the formats, and never repeats what may be a secret."""
    with pytest.raises(ConfigError) as raised:
        parse_layout(spec)
    assert str(raised.value).startswith("write one of draft-11, draft-next, github, openai")
    assert "drafts" not in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"limits": "X"}, "a field is not known: write one of limit, .*; did you mean limit?"),
        ("s3cret=X", "a field is not known: write one of limit, [^3]*policy$"),
        ({"limit": "X Limit"}, "the name of limit is not a header name: write at most 64"),
        ({"limit": "X\r\nSet-Cookie"}, "the name of limit is not a header name"),
        ({"limit": "X" * 65}, "the name of limit is not a header name"),
        ({"limit": "Ünit"}, "the name of limit is not a header name"),
        ({"limit": ""}, "the name of limit is not a header name"),
        ({"limit": 5}, "the name of limit is not a header name"),
        ({"limit": "X-{units}"}, "the name of limit is not a header name"),
        ("limit=", "the name of limit is not a header name"),
        ("limit=A,limit=B", "limit has two names: write one"),
        ({"limit": "Content-Type"}, "is Content-Type, which has a meaning"),
        ({"limit": "RateLimit"}, "is RateLimit, which has a meaning of its own: write another"),
        ({"reset": "retry-after"}, "is retry-after, which has a meaning of its own"),
        ({"limit": "Access-Control-Allow-Origin"}, "has a meaning of its own"),
        ({"limit": "X-A", "used": "x-a"}, "limit=X-A, used=x-a have the header x-a twice"),
        ({"limit": "X-{unit}", "used": "X-tokens"}, "have the header X-tokens twice"),
        ("draft-11,draft-next", "draft-11, draft-next have the header RateLimit twice"),
        ("github,x-ratelimit", "github, x-ratelimit have the header X-RateLimit-Limit twice"),
        ("github,github", "have the header x-ratelimit-limit twice"),
        ("none,github", "none is the format without headers: write it alone"),
        (["none", "none"], "none is the format without headers: write it alone"),
    ],
)
def test_wrong_specification_is_an_error(
    spec: Mapping[str, str] | Sequence[str] | str, message: str
) -> None:
    """Wrong names and headers with two values are errors that say what to write."""
    with pytest.raises(ConfigError, match=message):
        parse_layout(spec)


def test_shadow_policy_has_no_headers() -> None:
    """Clients see nothing of a policy in shadow."""
    decision = decided(("tried", REQUESTS, SPENT), mode=Mode.SHADOW)
    assert headers("draft-next,github,limit=X", decision) == {}


def test_policy_with_a_cost_in_tokens_counts_tokens() -> None:
    """A `usage` says the unit whatever the policy's name is, also after a reload."""
    bench = LimiterBench(Policy("llm", "900/minute", cost=Usage("openai")), header_format="openai")
    decision = decided(("llm", TOKENS, MANY_TOKENS))
    found = dict(bench.http_limiter.response_headers(decision))
    assert found["x-ratelimit-remaining-tokens"] == "149984"
    bench.limiter.active_policies.replace(PolicySet([Policy("llm", "900/minute")]))
    found = dict(bench.http_limiter.response_headers(decision))
    assert found["x-ratelimit-remaining-requests"] == "149984"


@pytest.mark.parametrize("late_us", [-59_000_000, -1, 0, 1, 7_000, 59_000_000])
def test_reset_of_a_calendar_is_the_boundary(late_us: int) -> None:
    """The instant is the end of the window, although the status is older than the headers."""
    quota = rate_quota("9/month", timezone="Europe/Berlin")
    assert quota.calendar is not None
    end_us = quota.calendar.window_at(NOW_US)[1]
    status = denied_status(0, end_us - NOW_US + late_us, 1, end_us - NOW_US + late_us)
    found = headers({"reset_epoch": "X-Epoch", "reset_at": "X-At"}, decided(("a", quota, status)))
    assert found == {"X-Epoch": str(end_us // SECOND_US), "X-At": "2023-11-30T23:00:00Z"}


def test_reset_of_a_calendar_far_from_a_boundary_is_kept() -> None:
    """Another clock is off by more than a minute, or the bucket is full."""
    quota = rate_quota("9/month")
    for reset_us, expected in ((0, 1_700_000_001), (90_000_000, 1_700_000_091)):
        found = headers({"reset_epoch": "X"}, decided(("a", quota, allowed_status(9, 0, reset_us))))
        assert found == {"X": str(expected)}
