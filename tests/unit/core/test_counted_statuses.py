"""Statuses that count under a policy, and the cost that an answer states."""

from typing import Any

import pytest

from fleetlimit.core.counted_statuses import CountSpec, parse_count
from fleetlimit.core.limit import Limit
from fleetlimit.core.policy import Policy
from fleetlimit.core.usage import DEFAULT_ESTIMATE, Usage
from fleetlimit.errors import ConfigError


@pytest.mark.parametrize(
    ("count", "counted", "others"),
    [
        ("failure", [400, 401, 429, 500, 599], [101, 200, 204, 302, 399]),
        ([401, 403, 429], [401, 403, 429], [400, 402, 200, 500]),
        ("5xx", [500, 503, 599], [499, 200]),
        (["401", "5XX"][1:], [500], [401]),
        ([401, "5xx"], [401, 500], [400, 403]),
        (404, [404], [400]),
        (["failure", 101], [101, 400, 500], [200]),
    ],
)
def test_count_states_which_statuses_count(
    count: CountSpec, counted: list[int], others: list[int]
) -> None:
    """A status counts if an entry of the list includes it."""
    statuses = parse_count(count)
    assert statuses is not None
    assert all(each in statuses for each in counted)
    assert not any(each in statuses for each in others)
    assert parse_count(statuses) is statuses
    assert Policy("a", "5/minute", count=count).count == statuses


def test_all_is_the_default() -> None:
    """Without `count` every admitted request counts."""
    assert parse_count("all") is None
    assert Policy("a", "5/minute") == Policy("a", "5/minute", count="all")
    assert not Policy("a", "5/minute").is_settled


@pytest.mark.parametrize(
    "count",
    ["failures", "6xx", "401", "4x", 99, 600, True, 401.0, None, [], ["all", 401], [None], b"401"],
)
def test_count_rejects_what_is_no_status(count: Any) -> None:
    """A word that is not known would count nothing in silence."""
    with pytest.raises(ConfigError, match=r"write (all|count)"):
        parse_count(count)


def test_policies_with_other_counts_differ() -> None:
    """Two limits of one name that count other statuses are two limits."""
    failures = Policy("a", "5/minute", count="failure")
    assert failures != Policy("a", "5/minute")
    assert failures != Policy("a", "5/minute", count=[401])
    assert "count='failure'" in repr(failures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"provider": "gemini"}, "openai, anthropic"),
        ({"provider": "openai", "estimate": 0}, "estimate is a whole number from 1, not 0"),
        ({"provider": "openai", "estimate": 1.5}, "estimate is a whole number from 1"),
        ({"provider": "openai", "estimate": True}, "estimate is a whole number from 1"),
        ({"provider": "openai", "max_request_bytes": -1}, "max_request_bytes is a whole number"),
    ],
)
def test_usage_rejects_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    """A wrong argument is an error with what to write."""
    with pytest.raises(ConfigError, match=message):
        Usage(**arguments)


def test_usage_is_written_as_it_was_made() -> None:
    """The representation is the call, without what is the default."""
    assert repr(Usage("openai")) == "Usage('openai')"
    usage = Usage("anthropic", estimate=5, max_request_bytes=6)
    assert repr(usage) == "Usage('anthropic', estimate=5, max_request_bytes=6)"
    assert repr(usage) in repr(Policy("a", "5/minute", cost=usage))


def test_estimate_is_the_stated_maximum_or_the_default() -> None:
    """Without a maximum in the request the estimate of the policy is reserved."""
    assert Usage("openai").estimated(None) == DEFAULT_ESTIMATE
    assert Usage("openai").estimated(500) == 500
    assert Usage("openai", estimate=7).estimated(None) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost": 5}, r"write cost=Usage\('openai'\)"),
        ({"cost": Usage("openai", estimate=101)}, "write an estimate from 1 to 100"),
    ],
)
def test_policy_rejects_costs_that_no_answer_states(
    arguments: dict[str, Any], message: str
) -> None:
    """A fixed cost stands in the limits, and an estimate fits into them."""
    with pytest.raises(ConfigError, match=message):
        Policy("a", "100/minute", **arguments)


@pytest.mark.parametrize("arguments", [{"count": "failure"}, {"cost": Usage("openai")}])
def test_policy_rejects_settled_costs_of_concurrency(arguments: dict[str, Any]) -> None:
    """A lease ends with its request, whatever the status is."""
    with pytest.raises(ConfigError, match="concurrency limit into a policy of its own"):
        Policy("a", ["100/minute", Limit.concurrent(4)], **arguments)
