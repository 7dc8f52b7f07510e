"""Costs that a response corrects: wrong uses are errors at the start, and reloads are rejected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.testclient import TestClient

from fleetlimit import (
    ConcurrencyLimit,
    ConfigError,
    Fleetlimit,
    Limit,
    Policy,
    PolicyLimit,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
    Usage,
)
from support.eventually import PATIENCE_SECONDS, eventually
from support.web import parse_limits

FAILURES = RateLimit("5 per 15 minutes", count="failure")
TOKENS = RateLimit("1000/minute", cost=Usage("openai"))
NAMED = PolicySet(
    [
        Policy("login", "5/minute", count="failure"),
        Policy("tokens", "1000/minute", cost=Usage("openai")),
        Policy("plain", "1000/minute"),
        Policy("slots", ["1000/minute", Limit.concurrent(4)]),
    ]
)


async def endpoint() -> None: ...


def app_of(limit: Any, *, policies: PolicySet | Path = NAMED) -> FastAPI:
    """Return an app whose route depends on the limit, without the middleware."""
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    app.post("/login", dependencies=[Depends(limit)])(endpoint)
    return app


def start(app: FastAPI) -> None:
    """Run the lifespan of an app."""
    with TestClient(app):
        pass


settled = pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (FAILURES, "counts by the status"),
        (TOKENS, "reads its cost from the answer"),
        (PolicyLimit("login"), r"PolicyLimit\('login'\) counts by the status"),
        (PolicyLimit("tokens"), "reads its cost from the answer"),
        (PolicyLimit("plain", cost=Usage("openai")), "reads its cost from the answer"),
    ],
)


@settled
def test_limit_without_the_middleware_prevents_the_start(limit: Any, reason: str) -> None:
    """No middleware would see the response that corrects the cost."""
    with pytest.raises(ConfigError, match=f"{reason}.*add_middleware"):
        start(app_of(limit))


@pytest.mark.parametrize("limit", [FAILURES, TOKENS, PolicyLimit("login"), PolicyLimit("tokens")])
def test_limit_with_the_middleware_starts(limit: Any) -> None:
    """The middleware of the app sees the responses of its routes."""
    app = app_of(limit)
    app.add_middleware(RateLimitMiddleware)
    start(app)


def test_fixed_cost_of_a_usage_policy_needs_no_middleware() -> None:
    """A dependency that states a cost does not read the answer."""
    start(app_of(PolicyLimit("tokens", cost=5)))


def mounted_below(limit: Any, add: Callable[[FastAPI, FastAPI, FastAPI], None]) -> FastAPI:
    """Return an app with a limit two mounts below it."""
    outer, middle, inner = FastAPI(lifespan=Fleetlimit()), FastAPI(), FastAPI()
    inner.post("/login", dependencies=[Depends(limit)])(endpoint)
    middle.mount("/inner", inner)
    outer.mount("/middle", middle)
    add(outer, middle, inner)
    return outer


@pytest.mark.parametrize("index", [0, 1, 2])
def test_middleware_of_any_app_around_the_route_suffices(index: int) -> None:
    """The middleware may be that of the app, or of an app that is mounted into it."""
    limit = RateLimit("9/minute", name="a", count="failure")
    app = mounted_below(limit, lambda *apps: apps[index].add_middleware(RateLimitMiddleware))
    with TestClient(app) as client:
        response = client.post("/middle/inner/login")
    assert parse_limits(response)["a"]["r"] == 9


def test_no_middleware_of_mounted_apps_prevents_the_start() -> None:
    """A route of a mounted app needs one as well."""
    with pytest.raises(ConfigError, match="add_middleware"):
        start(mounted_below(FAILURES, lambda *_: None))


def test_usage_of_a_websocket_prevents_the_start() -> None:
    """A WebSocket has no answer that states its tokens."""
    app = FastAPI(lifespan=Fleetlimit())

    @app.websocket("/ws", dependencies=[Depends(TOKENS)])
    async def room(socket: WebSocket) -> None: ...

    app.add_middleware(RateLimitMiddleware)
    with pytest.raises(ConfigError, match="a WebSocket has none"):
        start(app)


def test_usage_of_a_policy_with_leases_prevents_the_start() -> None:
    """A lease has no tokens."""
    app = app_of(PolicyLimit("slots", cost=Usage("openai")))
    app.add_middleware(RateLimitMiddleware)
    with pytest.raises(ConfigError, match="into a policy of its own"):
        start(app)


FILE = """\
version: 1
policies:
  - {{name: login, limits: [{{rate: 5/minute}}]{more}}}
"""


def _wait(found: Callable[[], Any]) -> Any:
    return eventually(found, within=PATIENCE_SECONDS, what="the reload")


def test_reload_that_needs_the_middleware_is_rejected(tmp_path: Path) -> None:
    """The previous policies stay active, and the error has what to write."""
    file = tmp_path / "policies.yaml"
    file.write_text(FILE.format(more=""))
    fleetlimit = Fleetlimit(policies=file)
    app = FastAPI(lifespan=fleetlimit)
    app.post("/login", dependencies=[Depends(PolicyLimit("login"))])(endpoint)
    with TestClient(app) as client:
        file.write_text(FILE.format(more=", count: failure"))
        errors = _wait(lambda: fleetlimit.rejected_policies)
        assert "counts by the status" in errors[0]
        assert client.post("/login").status_code == 200


def test_reload_of_count_and_cost_takes_effect(tmp_path: Path) -> None:
    """A policy that counts failures from now on keeps its bucket."""
    file = tmp_path / "policies.yaml"
    file.write_text(FILE.format(more=", match: {}"))
    fleetlimit = Fleetlimit(policies=file)
    app = FastAPI(lifespan=fleetlimit)
    app.post("/login")(endpoint)
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        assert parse_limits(client.post("/login"))["login"]["r"] == 4
        file.write_text(FILE.format(more=", match: {}, count: [401, 5xx]"))
        _wait(lambda: fleetlimit.policy_file.policy_set.policies[0].count)
        assert parse_limits(client.post("/login"))["login"]["r"] == 4
        file.write_text(FILE.format(more=", match: {}, cost: {usage: openai, estimate: 2}"))
        _wait(lambda: fleetlimit.policy_file.policy_set.policies[0].cost)
        assert parse_limits(client.post("/login"))["login"]["r"] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RateLimit("5/minute", when="failure"), r"write count='failure'"),  # type: ignore[call-arg]
        (lambda: Policy("a", "5/minute", when="failure"), r"write count='failure'"),  # type: ignore[call-arg]
        (lambda: PolicyLimit("a", when=[401]), r"count: into the policy"),  # type: ignore[call-arg]
        (lambda: PolicyLimit("a", count="failure"), r"count: into the policy"),  # type: ignore[call-arg]
        (lambda: ConcurrencyLimit(4, count=401), r"RateLimit\(\.\.\., count"),  # type: ignore[call-arg]
    ],
)
def test_when_is_called_count(make: Callable[[], object], message: str) -> None:
    """The word of other limiters is an error with what to write."""
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("algorithm", "limits"), [("token_bucket", ["tokens", "1000-60s"]), ("sliding_window", [])]
)
def test_estimates_of_a_token_bucket_are_reported_at_the_start(
    caplog: pytest.LogCaptureFixture, algorithm: Any, limits: list[str]
) -> None:
    """A policy and a limit in code that read tokens, each once; `validate` has the same text."""
    usage, limit = Usage("openai"), Limit.rate("500/minute", algorithm=algorithm)
    policies = PolicySet([Policy("tokens", limit, cost=usage), Policy("plain", "9/minute")])
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    app.add_middleware(RateLimitMiddleware)
    inline = RateLimit("1000/minute", cost=usage, algorithm=algorithm, name="1000-60s")
    for path in ("/a", "/b"):
        app.post(path, dependencies=[Depends(inline)])(endpoint)
    start(app)
    reported = [line for line in caplog.messages if "policy.estimate_kept" in line]
    assert len(reported) == len(limits)
    for line, name in zip(reported, limits, strict=True):
        assert f"policy {name} spends estimates from a token bucket" in line
        assert "write the algorithm sliding_window" in line
