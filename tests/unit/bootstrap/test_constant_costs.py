"""Constant costs of dependencies that their policy can never admit, at start and at reload."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit import (
    ConfigError,
    Fleetlimit,
    Limit,
    Mode,
    Policy,
    PolicyLimit,
    PolicySet,
)
from support.eventually import PATIENCE_SECONDS, eventually
from support.policies import write_atomically


def depending(policies: Any, *costs: Any) -> FastAPI:
    """Return an app with a route for each cost under the policy `exports`."""
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    for index, cost in enumerate(costs):
        depends = [Depends(PolicyLimit("exports", cost=cost))]
        app.add_api_route(f"/{index}", lambda: None, dependencies=depends)
    return app


def warned(log: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in log.messages if "policy.cost_too_large" in line]


@pytest.mark.parametrize(
    ("policy", "cost", "largest"),
    [
        (Policy("exports", "5/day"), 6, 5),
        (Policy("exports", Limit.rate("5/day", cost=2)), 3, 2),
        (Policy("exports", ["9/day", "5/minute"]), 6, 5),
        (Policy("exports", "100/day", prefetch=0.5), 101, 100),
        (Policy("exports", tiers={"free": "2/day", "pro": "5/day"}), 6, 5),
        (Policy("exports", "5/day", enforce_percent=10), 6, 5),
        (Policy("exports", Limit.concurrent(4)), 5, 4),
    ],
)
def test_cost_that_no_caller_can_pass_prevents_the_start(
    policy: Policy, cost: int, largest: int
) -> None:
    """Each request would be a 413; the largest cost that the policy admits is no error."""
    policies = PolicySet([policy])
    with (
        pytest.raises(
            ConfigError,
            match=rf"PolicyLimit\('exports', cost={cost}\) can never pass policy exports in code: "
            rf"write a cost from 0 to {largest}, or a larger",
        ),
        TestClient(depending(policies, 1, cost, 2)),
    ):
        pass
    with TestClient(depending(policies, largest)) as client:
        assert client.get("/0").status_code == (413 if policy.tiers else 200)


@pytest.mark.parametrize(
    "policy",
    [
        Policy("exports", "5/day", mode=Mode.SHADOW),
        Policy("exports", "5/day", mode=Mode.OFF),
        Policy("exports", "5/day", enforce_percent=0),
    ],
    ids=["shadow", "off", "enforced_for_nobody"],
)
def test_cost_under_a_policy_that_is_not_enforced_is_at_most_a_warning(
    policy: Policy, log: pytest.LogCaptureFixture
) -> None:
    """A policy that is not enforced rejects nothing, and its result is of no use."""
    with TestClient(depending(PolicySet([policy]), 6)) as client:
        assert client.get("/0").status_code == 200
    assert len(warned(log)) == (policy.mode is not Mode.OFF)


def test_cost_that_some_tiers_can_never_pass_is_warned_about(log: pytest.LogCaptureFixture) -> None:
    """A tier may be excluded on purpose, so this is no error; the warning names the tiers."""
    policy = Policy("exports", "5/day", tiers={"free": "2/day", "pro": "9/day"})
    with TestClient(depending(PolicySet([policy]), 6, lambda _: 99)):
        pass
    (line,) = warned(log)
    assert "tier free" in line
    assert "callers without a tier" in line
    assert "tier pro" not in line


def test_reload_to_a_limit_below_a_constant_cost_is_rejected(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """The previous policies stay active."""
    file, text = tmp_path / "policies.yaml", "version: 1\npolicies: [{name: exports, limits: [%s]}]"
    write_atomically(file, text % "{rate: 5/day}")
    with TestClient(depending(file, 5)) as client:
        write_atomically(file, text % "{rate: 4/day}")
        eventually(
            lambda: "PolicyLimit('exports', cost=5) can never pass policy" in log.text,
            within=PATIENCE_SECONDS,
            what="rejected reload",
        )
        assert client.get("/0").status_code == 200


def test_policy_limit_without_any_policies_names_what_to_write() -> None:
    """An app that has the dependency alone has no policies, and the error says how to give some."""
    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("exports"))])
    with pytest.raises(
        ConfigError,
        match=r"there is no policy 'exports' in code: none; write "
        r"FastAPI\(lifespan=Fleetlimit\(policies=\"policies.yaml\"\)\), or set FLEETLIMIT_POLICIES",
    ):
        TestClient(app).get("/")
