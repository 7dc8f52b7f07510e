"""Limit headers: well formed, as a parser of Structured Fields reads them."""

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
    ceil_seconds,
)
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import SECOND_US, Quota, concurrency_quota, rate_quota
from fleetlimit.web.header_layout import parse_layout
from fleetlimit.web.ratelimit_headers import HeaderFormat, Headers, retry_after
from support.stores import allowed_status, denied_status

MINUTE, DAY = rate_quota("5/minute", burst=9), rate_quota("1000/day")
FULL = allowed_status(9, 0, 0)
SOME = allowed_status(3, 11_000_001, 66 * SECOND_US)
SPENT = denied_status(0, 4_000_001, 4_000_001, 100 * SECOND_US)


def result(name: str, *limits: tuple[Quota, BucketStatus | None]) -> PolicyResult:
    """Return the result of one policy."""
    quotas, statuses = zip(*limits, strict=True)
    return PolicyResult(name, Mode.ENFORCE, Outcome.ALLOWED, quotas, statuses)


def decision(*results: PolicyResult, retry_after_us: int = 0) -> Decision:
    """Return a decision of these results."""
    return Decision(Outcome.ALLOWED, Source.STORE, results, retry_after_us)


def limit_headers(of: Decision, header_format: HeaderFormat, *, unix_seconds: int = 0) -> Headers:
    """Return the headers of a decision in one format."""
    return parse_layout(header_format).headers(of, unix_us=unix_seconds * SECOND_US)


def parsed(of: Decision) -> dict[str, Any]:
    """Return the RateLimit headers as a parser reads them."""
    found = limit_headers(of, HeaderFormat.DRAFT_11)
    return {name: http_sf.parse(value.encode(), tltype="list") for name, value in found}


def test_single_limit_is_named_after_its_policy() -> None:
    """A policy of one limit has one item: capacity, window, and the remaining units."""
    assert parsed(decision(result("exports", (MINUTE, SOME)))) == {
        "RateLimit-Policy": [("exports", {"q": 9, "w": 108})],
        "RateLimit": [("exports", {"r": 3, "t": 12})],
    }


def test_several_limits_are_items_of_one_list() -> None:
    """Several limits and policies are items of one list, in one header each."""
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


def test_concurrency_limit_has_a_unit_and_no_window() -> None:
    """A limit of requests in progress names its quota unit."""
    assert parsed(decision(result("uploads", (concurrency_quota(3), SOME)))) == {
        "RateLimit-Policy": [("uploads", {"q": 3, "qu": "concurrent-requests"})],
        "RateLimit": [("uploads", {"r": 3, "t": 12})],
    }


def test_window_below_a_second_is_rounded_up() -> None:
    """A window is never 0 seconds."""
    quota = concurrency_quota(1)
    short = Quota(MINUTE.algorithm, 1, 1_000, 1)
    headers = parsed(decision(result("a", (short, FULL)), result("b", (quota, FULL))))
    assert headers["RateLimit-Policy"][0] == ("a", {"q": 1, "w": 1})


def test_limit_without_status_has_no_state() -> None:
    """Without a status the policy is listed, and its state is not."""
    assert parsed(decision(result("exports", (MINUTE, None)))) == {
        "RateLimit-Policy": [("exports", {"q": 9, "w": 108})]
    }


@pytest.mark.parametrize("header_format", list(HeaderFormat))
def test_shadow_policy_has_no_headers(header_format: HeaderFormat) -> None:
    """A policy in shadow mode appears in no format."""
    shadow = PolicyResult("tried", Mode.SHADOW, Outcome.SHADOW_DENIED, (MINUTE,), (SPENT,))
    enforced = result("exports", (DAY, SOME))
    assert limit_headers(decision(shadow), header_format) == []
    alone = limit_headers(decision(enforced), header_format)
    assert limit_headers(decision(shadow, enforced), header_format) == alone


@pytest.mark.parametrize("header_format", list(HeaderFormat))
def test_exempt_request_has_no_headers(header_format: HeaderFormat) -> None:
    """An exempt request has no limit headers, in any format."""
    assert limit_headers(EXEMPT, header_format) == []


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}", fullmatch=True)
MICROS = st.integers(0, 366 * 86_400 * SECOND_US)
STATUSES = st.builds(BucketStatus, st.booleans(), st.integers(0, 2**26), MICROS, MICROS, MICROS)


@given(
    names=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    statuses=st.lists(STATUSES, min_size=2, max_size=2),
)
def test_every_header_is_parsed(names: list[str], statuses: list[BucketStatus]) -> None:
    """For any policy names and numbers a parser reads the values that were written."""
    pairs = list(zip((MINUTE, DAY), statuses, strict=True))
    headers = parsed(decision(*(result(name, *pairs) for name in names)))
    expected = [f"{name}.{quota.name}" for name in names for quota, _ in pairs]
    assert [member for member, _ in headers["RateLimit-Policy"]] == expected
    assert [(member, state["r"]) for member, state in headers["RateLimit"]] == [
        (f"{name}.{quota.name}", status.remaining) for name in names for quota, status in pairs
    ]


def test_format_none_has_no_headers() -> None:
    """The format `none` has no limit headers."""
    assert limit_headers(decision(result("exports", (MINUTE, SPENT))), HeaderFormat.NONE) == []


@pytest.mark.parametrize(
    ("status", "reset"), [(SOME, 66), (SPENT, 5), (FULL, 0)], ids=["some", "spent", "full"]
)
def test_x_ratelimit_headers_are_whole_numbers(status: BucketStatus, reset: int) -> None:
    """The reset is the time until the bucket is full, or for a rejection until the next unit."""
    one = decision(result("exports", (MINUTE, status)))
    for header_format, now in (
        (HeaderFormat.X_RATELIMIT, 0),
        (HeaderFormat.X_RATELIMIT_EPOCH, 1_700_000_000),
    ):
        headers = dict(limit_headers(one, header_format, unix_seconds=1_700_000_000))
        values = {
            name: http_sf.parse(value.encode(), tltype="item") for name, value in headers.items()
        }
        assert values == {
            "X-RateLimit-Limit": (9, {}),
            "X-RateLimit-Remaining": (status.remaining, {}),
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
def test_x_ratelimit_states_the_most_restrictive_limit(
    first: BucketStatus | None, second: BucketStatus, limit: str
) -> None:
    """Of several limits the longest wait is stated, or else the fewest remaining units."""
    both = decision(result("exports", (MINUTE, first), (DAY, second)))
    assert dict(limit_headers(both, HeaderFormat.X_RATELIMIT))["X-RateLimit-Limit"] == limit


def test_x_ratelimit_without_status_has_no_headers() -> None:
    """Without any status there are no headers."""
    unknown = decision(result("exports", (MINUTE, None)))
    assert limit_headers(unknown, HeaderFormat.X_RATELIMIT) == []


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
    """The stated seconds are enough, and less than a second more than needed."""
    wait_seconds = int(retry_after(decision(retry_after_us=micros)))
    assert micros <= wait_seconds * SECOND_US < max(micros, 1) + SECOND_US
    assert ceil_seconds(micros) <= wait_seconds


@pytest.mark.parametrize("header_format", list(HeaderFormat))
def test_exposed_headers_are_all_headers_of_a_format(header_format: HeaderFormat) -> None:
    """A browser may read the headers of a format, and Retry-After."""
    both = decision(result("a", (DAY, SOME)), result("tokens", (DAY, SOME)))
    emitted = {name for name, _ in limit_headers(both, header_format)}
    assert set(parse_layout(header_format).exposed.split(", ")) == emitted | {"Retry-After"}
