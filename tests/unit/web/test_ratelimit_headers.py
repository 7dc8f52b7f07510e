"""Every header that tells of limits is well formed, as a parser of Structured Fields sees it."""

from typing import Any

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.decision import (
    EXEMPT,
    BucketStatus,
    Decision,
    Outcome,
    PolicyResult,
    Source,
)
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import SECOND_US, Quota, concurrency_quota, rate_quota
from fleetlimit.web.ratelimit_headers import (
    EXPOSED_HEADERS,
    HeaderFormat,
    limit_headers,
    retry_after,
    seconds,
)
from support.stores import allowed_status, denied_status

MINUTE, DAY = rate_quota("5/minute", burst=9), rate_quota("1000/day")
FULL = allowed_status(9, 0, 0)
SOME = allowed_status(3, 11_000_001, 66 * SECOND_US)
SPENT = denied_status(0, 4_000_001, 4_000_001, 100 * SECOND_US)


def result(name: str, *limits: tuple[Quota, BucketStatus | None]) -> PolicyResult:
    """Return one policy's part in a decision."""
    quotas, verdicts = zip(*limits, strict=True)
    return PolicyResult(name, Mode.ENFORCE, Outcome.ALLOWED, quotas, verdicts)


def decision(*results: PolicyResult, retry_after_us: int = 0) -> Decision:
    """Return a decision of these parts."""
    return Decision(Outcome.ALLOWED, Source.STORE, results, retry_after_us)


def parsed(of: Decision) -> dict[str, Any]:
    """Return the RateLimit fields as a parser reads them."""
    found = limit_headers(of, HeaderFormat.DRAFT_11)
    return {name: http_sf.parse(value.encode(), tltype="list") for name, value in found}


def test_fields_of_one_limit_are_named_after_its_policy() -> None:
    """A policy of one limit is told by its own name: what it holds, when it fills, what is left."""
    assert parsed(decision(result("exports", (MINUTE, SOME)))) == {
        "RateLimit-Policy": [("exports", {"q": 9, "w": 108})],
        "RateLimit": [("exports", {"r": 3, "t": 12})],
    }


def test_fields_of_several_limits_are_members_of_one_list() -> None:
    """Several limits and policies are members of one list, in one field each."""
    both = decision(result("exports", (MINUTE, SPENT), (DAY, SOME)), result("default", (DAY, FULL)))
    assert parsed(both) == {
        "RateLimit-Policy": [
            ("exports.tb60", {"q": 9, "w": 108}),
            ("exports.tb86400", {"q": 1_000, "w": 86_400}),
            ("default", {"q": 1_000, "w": 86_400}),
        ],
        "RateLimit": [
            ("exports.tb60", {"r": 0, "t": 5}),
            ("exports.tb86400", {"r": 3, "t": 12}),
            ("default", {"r": 9}),
        ],
    }


def test_concurrency_has_a_unit_and_no_window() -> None:
    """A limit of requests in flight names its quota unit."""
    assert parsed(decision(result("uploads", (concurrency_quota(3), SOME)))) == {
        "RateLimit-Policy": [("uploads", {"q": 3, "qu": "concurrent-requests"})],
        "RateLimit": [("uploads", {"r": 3, "t": 12})],
    }


def test_window_below_a_second_is_rounded_up() -> None:
    """A window is never told as 0 seconds."""
    quota = concurrency_quota(1)
    short = Quota(MINUTE.algorithm, 1, 1_000, 1)
    told = parsed(decision(result("a", (short, FULL)), result("b", (quota, FULL))))
    assert told["RateLimit-Policy"][0] == ("a", {"q": 1, "w": 1})


def test_limit_that_was_not_asked_has_no_state() -> None:
    """Without a verdict the policy is told, and its state is not."""
    assert parsed(decision(result("exports", (MINUTE, None)))) == {
        "RateLimit-Policy": [("exports", {"q": 9, "w": 108})]
    }


@pytest.mark.parametrize("dialect", list(HeaderFormat))
def test_policy_in_shadow_is_nothing_to_clients(dialect: HeaderFormat) -> None:
    """A policy that is only tried is told in no dialect."""
    shadow = PolicyResult("tried", Mode.SHADOW, Outcome.SHADOW_DENIED, (MINUTE,), (SPENT,))
    enforced = result("exports", (DAY, SOME))
    assert limit_headers(decision(shadow), dialect) == []
    alone = limit_headers(decision(enforced), dialect)
    assert limit_headers(decision(shadow, enforced), dialect) == alone


@pytest.mark.parametrize("dialect", list(HeaderFormat))
def test_decision_of_no_policy_has_no_headers(dialect: HeaderFormat) -> None:
    """An exempt request is told nothing, in any dialect."""
    assert limit_headers(EXEMPT, dialect) == []


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}", fullmatch=True)
MICROS = st.integers(0, 366 * 86_400 * SECOND_US)
VERDICTS = st.builds(BucketStatus, st.booleans(), st.integers(0, 2**26), MICROS, MICROS, MICROS)


@given(
    names=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    verdicts=st.lists(VERDICTS, min_size=2, max_size=2),
)
def test_every_emitted_field_is_parsed(names: list[str], verdicts: list[BucketStatus]) -> None:
    """Whatever the policy's name and figures, each field is read back to what was meant."""
    pairs = list(zip((MINUTE, DAY), verdicts, strict=True))
    told = parsed(decision(*(result(name, *pairs) for name in names)))
    expected = [f"{name}.{quota.name}" for name in names for quota, _ in pairs]
    assert [member for member, _ in told["RateLimit-Policy"]] == expected
    assert [(member, state["r"]) for member, state in told["RateLimit"]] == [
        (f"{name}.{quota.name}", verdict.remaining) for name in names for quota, verdict in pairs
    ]


def test_nothing_is_told_in_the_dialect_none() -> None:
    """The dialect `none` tells no limits."""
    assert limit_headers(decision(result("exports", (MINUTE, SPENT))), HeaderFormat.NONE) == []


@pytest.mark.parametrize(
    ("verdict", "reset"), [(SOME, 66), (SPENT, 5), (FULL, 0)], ids=["some", "spent", "full"]
)
def test_older_headers_are_whole_numbers(verdict: BucketStatus, reset: int) -> None:
    """The reset is until the bucket is full, or, when it refuses, until more is available."""
    one = decision(result("exports", (MINUTE, verdict)))
    for dialect, now in (
        (HeaderFormat.X_RATELIMIT, 0),
        (HeaderFormat.X_RATELIMIT_EPOCH, 1_700_000_000),
    ):
        headers = dict(limit_headers(one, dialect, unix_seconds=1_700_000_000))
        told = {
            name: http_sf.parse(value.encode(), tltype="item") for name, value in headers.items()
        }
        assert told == {
            "X-RateLimit-Limit": (9, {}),
            "X-RateLimit-Remaining": (verdict.remaining, {}),
            "X-RateLimit-Reset": (now + reset, {}),
        }


@pytest.mark.parametrize(
    ("first", "second", "limit"),
    [
        (SPENT, SOME, "9"),
        (SOME, SPENT, "1000"),
        (SOME, FULL, "9"),
        (SPENT, denied_status(0, 9_000_000, 1, 9_000_000), "1000"),
        (None, SOME, "1000"),
    ],
)
def test_older_headers_tell_the_limit_that_binds(
    first: BucketStatus | None, second: BucketStatus, limit: str
) -> None:
    """Of several limits the one that refuses longest is told, or else the one with least left."""
    both = decision(result("exports", (MINUTE, first), (DAY, second)))
    assert dict(limit_headers(both, HeaderFormat.X_RATELIMIT))["X-RateLimit-Limit"] == limit


def test_older_headers_are_left_out_when_nothing_is_known() -> None:
    """Without any verdict there is nothing to tell."""
    unasked = decision(result("exports", (MINUTE, None)))
    assert limit_headers(unasked, HeaderFormat.X_RATELIMIT) == []


@pytest.mark.parametrize(
    ("micros", "expected"),
    [(0, "1"), (1, "1"), (999_999, "1"), (1_000_000, "1"), (1_000_001, "2"), (59_000_001, "60")],
)
def test_retry_after_is_rounded_up_and_at_least_one(micros: int, expected: str) -> None:
    """Retry-After is whole seconds, never too few and never 0 (RFC 9110, 10.2.3)."""
    value = retry_after(decision(retry_after_us=micros))
    assert value == expected
    assert http_sf.parse(value.encode(), tltype="item") == (int(expected), {})


@given(micros=MICROS)
def test_retry_after_is_never_below_the_wait(micros: int) -> None:
    """Waiting the told seconds is enough, and less than a second more than needed."""
    told = int(retry_after(decision(retry_after_us=micros)))
    assert micros <= told * SECOND_US < max(micros, 1) + SECOND_US
    assert seconds(micros) <= told


@pytest.mark.parametrize("dialect", list(HeaderFormat))
def test_browsers_are_told_every_header_there_is(dialect: HeaderFormat) -> None:
    """What a dialect emits, and Retry-After, is what a browser must be let to see."""
    emitted = {name for name, _ in limit_headers(decision(result("a", (DAY, SOME))), dialect)}
    assert set(EXPOSED_HEADERS[dialect].split(", ")) == emitted | {"Retry-After"}
