"""Usage reports: a round trip, and malformed ones."""

import json

import pytest

from fleetlimit.core.keys import BucketKey
from fleetlimit.core.quota import Algorithm, Quota, rate_quota
from fleetlimit.limiter.audit.ledger import INTERVAL_US
from fleetlimit.limiter.audit.report import (
    PENDING,
    UNKNOWN,
    AuditedLimit,
    CallerAccount,
    IntervalUsage,
    UsageReport,
    dump_bounds,
    dump_report,
    parse_bounds,
)
from support.stores import MINUTE_US, quota_of

LIMIT = AuditedLimit("exports", quota_of(Algorithm.TOKEN_BUCKET, 10, burst=20))
NOTHING = UsageReport({}, {})


def test_usage_report_round_trip() -> None:
    """Limits, callers, intervals and invalidations are preserved."""
    intervals = {1: [7, 3, 2], 2: [INTERVAL_US - 1, UNKNOWN, -1]}
    breaks = {"fl2:{ann}:exports:tb60": PENDING, "fl2:{route}:exports:fw1:ann": 7}
    text = dump_report({str(LIMIT): {"ann": (1, 0, intervals), "bob": (0, 1, {})}}, breaks)
    found = UsageReport.parse(text)
    assert found.invalidations == {
        BucketKey("exports", "tb60", "ann"): PENDING,
        BucketKey("exports", "fw1", "route:ann"): 7,
    }
    ann, bob = (found.accounts[LIMIT][caller] for caller in ("ann", "bob"))
    assert (ann.first_interval, ann.has_refunds, sorted(ann.intervals)) == (1, False, ["1", "2"])
    assert [ann.usage(interval) for interval in (1, 2, 3)] == [
        IntervalUsage(7, 3, 2),
        IntervalUsage(INTERVAL_US - 1, UNKNOWN, -1),
        None,
    ]
    assert bob == CallerAccount(0, has_refunds=True, intervals={})


@pytest.mark.parametrize("figures", [1, [1, 2], [1, 2, None], [1, 2, 1e999], {"a": 1}])
def test_caller_account_ignores_malformed_figures(figures: object) -> None:
    """They are parsed when they are needed."""
    text = dump_report({str(LIMIT): {"ann": (1, 0, {5: figures})}}, {})
    assert UsageReport.parse(text).accounts[LIMIT]["ann"].usage(5) is None


def test_audited_limit_ignores_the_cost_factor() -> None:
    """The cost factor of a quota is not part of the limit's identity."""
    dear = AuditedLimit.of("exports", Quota(Algorithm.TOKEN_BUCKET, 10, MINUTE_US, 20, cost=5))
    assert dear == LIMIT
    assert AuditedLimit.parse(str(dear)) == LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "7",
        "{}",
        '{"accounts": {}}',
        '{"accounts": [], "invalidations": {}}',
        '{"accounts": {}, "invalidations": {"bucket": 7}}',
        '{"accounts": {}, "invalidations": {"fl2:{ann}:exports": 7}}',
        '{"accounts": {}, "invalidations": {"fl2:{ann}:exports:tb60": "never"}}',
        '{"accounts": {"exports": {}}, "invalidations": {}}',
        '{"accounts": {"exports no_algorithm 1 1000 1": {}}, "invalidations": {}}',
        '{"accounts": {"exports token_bucket 0 60000000 20": {}}, "invalidations": {}}',
        json.dumps({"accounts": {str(LIMIT): {"ann": 1}}, "invalidations": {}}),
        json.dumps({"accounts": {str(LIMIT): {"ann": [0, 0, [1]]}}, "invalidations": {}}),
        json.dumps({"accounts": {str(LIMIT): {"ann": [1e999, 0, {}]}}, "invalidations": {}}),
        "[" * 100_000,
    ],
)
def test_malformed_usage_report_is_empty(text: str) -> None:
    """A report of another release, or of another program, is ignored."""
    assert UsageReport.parse(text) == NOTHING


def test_bounds_round_trip() -> None:
    """Malformed bounds are None."""
    bounds = {str(LIMIT): 7}
    assert parse_bounds(dump_bounds(bounds)) == bounds
    assert parse_bounds(dump_bounds({})) == {}
    for text in ("", "[]", "[1]", '{"a": "b"}', '{"a": null}', "[" * 100_000):
        assert parse_bounds(text) is None


def test_audited_limit_has_the_calendar() -> None:
    """Replicas with another calendar after a reload have another limit."""
    quota = rate_quota("10/month", timezone="Europe/Berlin", anchor=15)
    limit = AuditedLimit("exports", quota)
    assert AuditedLimit.parse(str(limit)) == limit
    assert str(limit) != str(AuditedLimit("exports", rate_quota("10/month", anchor=15)))
    unknown = str(limit).replace("Europe/Berlin", "Mars/Olympus")
    text = dump_report({unknown: {"ann": (1, 0, {})}}, {})
    assert UsageReport.parse(text) == NOTHING
