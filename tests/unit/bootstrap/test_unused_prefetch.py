"""Policies on which `prefetch` has no effect."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fleetlimit import Fleetlimit, Limit, Policy, PolicySet, Usage
from fleetlimit.bootstrap.unused_prefetch import unused_prefetches

SLIDING = Limit.rate("1000/minute", algorithm="sliding_window")


def details(*limits: Any, **options: Any) -> list[str]:
    given = {"prefetch": "auto"} | options
    return [each for _, each in unused_prefetches(PolicySet([Policy("p", limits, **given)]))]


@pytest.mark.parametrize(
    ("limits", "options", "reason"),
    [
        (["1000/minute"], {"mode": "shadow"}, "in shadow mode: leave it out until"),
        (
            ["1000/minute"],
            {"mode": "shadow", "prefetch": 0.1},
            "in shadow mode: leave it out until",
        ),
        (["1000/minute"], {"enforce_percent": 0}, "in shadow mode: leave it out until"),
        (["1000/minute"], {"count": "failure"}, "where the response decides what is spent"),
        (["1000/minute"], {"cost": Usage("openai")}, "where the response decides what is spent"),
        ([SLIDING], {}, "on these algorithms: write token_bucket or fixed_window"),
        (["1000/minute", SLIDING], {}, "on these algorithms: write token_bucket or fixed_window"),
        (["31/minute"], {}, "on limits whose burst holds fewer than 32 requests"),
        ([Limit.rate("1000/minute", cost=50)], {}, "on limits whose burst holds fewer than 32"),
    ],
)
def test_prefetch_without_an_effect_is_reported(
    limits: list[Any], options: dict[str, Any], reason: str
) -> None:
    """The detail says why, and what to write."""
    [detail] = details(*limits, **options)
    assert f"policy p: prefetch has no effect {reason}" in detail


@pytest.mark.parametrize(
    ("limits", "options"),
    [
        (["1000/minute"], {}),
        (["32/minute"], {}),
        (["1000/minute"], {"prefetch": 0.1}),
        (["1000/minute"], {"prefetch": 0.1, "count": "failure"}),
        ([SLIDING], {"prefetch": "off"}),
        ([SLIDING], {"mode": "off"}),
        ([SLIDING], {"prefetch": None}),
        (["1000/minute"], {"enforce_percent": 10}),
        # Callers of one tier have large limits.
        (["9/minute"], {"tiers": {"pro": "9000/minute"}}),
    ],
)
def test_prefetch_with_an_effect_is_not_reported(
    limits: list[Any], options: dict[str, Any]
) -> None:
    """Some checks of the policy do not call the store."""
    assert details(*limits, **options) == []


def test_prefetch_without_an_effect_is_logged_at_start(log: pytest.LogCaptureFixture) -> None:
    """Once for each policy."""
    policies = PolicySet([Policy("a", SLIDING, prefetch="auto"), Policy("b", "1/minute")])
    with TestClient(FastAPI(lifespan=Fleetlimit(policies=policies))):
        pass
    [line] = [each for each in log.messages if "policy.prefetch_unused" in each]
    assert "policy=a" in line
