"""Default limiter of an app that has the dependency alone."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit import ConfigError, Fleetlimit, RateLimit
from fleetlimit.stores.embedded import EmbeddedValkey
from support import default_limiter
from support.default_limiter import app, post
from support.eventually import PATIENCE_SECONDS, eventually_async


def test_dependency_alone_limits() -> None:
    """The limit applies even if each request has its own event loop."""
    client = TestClient(app())
    statuses = [client.post("/exports").status_code for _ in range(6)]
    assert statuses == [200] * 5 + [429]


async def test_default_limiter_logs_one_warning(log: pytest.LogCaptureFixture) -> None:
    """Concurrent first requests log a single warning that the limit is per process."""
    assert await post(app(), 20) == [200] * 5 + [429] * 15
    warnings = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    # Limiters of other tests may not be collected yet.
    warnings = [each for each in warnings if not each.startswith("limiter.not_used ")]
    assert len(warnings) == 1
    assert "limits hold within this process only; set FLEETLIMIT_STORE=redis://" in warnings[0]


def test_invalid_setting_is_an_error_of_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lifespan the error that names the variable is the first request's, and no 200."""
    monkeypatch.setenv("FLEETLIMIT_STROE", "redis://store")
    client = TestClient(app())
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"FLEETLIMIT_STROE: .* FLEETLIMIT_STORE\?"):
            client.post("/exports")
    monkeypatch.delenv("FLEETLIMIT_STROE")
    assert client.post("/exports").status_code == 200


def test_two_limits_of_one_name_are_an_error_of_each_request() -> None:
    """Without a lifespan the limits of all routes are compared at the first request."""
    app = FastAPI()
    limits = {"/a": RateLimit("5/minute", name="io"), "/b": RateLimit("5/s", name="io")}
    for path, limit in limits.items():
        app.get(path, dependencies=[Depends(limit)])(lambda: None)
    client = TestClient(app)
    for path in ("/a", "/b", "/a"):
        with pytest.raises(ConfigError, match="two different limits are named 'io'"):
            client.get(path)


def test_policies_without_the_middleware_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """A policy file of the environment has no effect on routes that do not name its policies."""
    path = tmp_path / "policies.yaml"
    path.write_text("version: 1\npolicies: [{name: default, limits: [{rate: 1/minute}]}]\n")
    monkeypatch.setenv("FLEETLIMIT_POLICIES", str(path))
    client = TestClient(app())
    assert {client.post("/exports").status_code for _ in range(2)} == {200}
    assert log.text.count("policy default applies to no route: add RateLimitMiddleware") == 1


async def test_failure_of_background_work_is_logged(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure is logged with its traceback, and does not propagate to the request."""

    async def fail(_fleetlimit: Fleetlimit) -> None:
        raise LookupError("gone")

    monkeypatch.setattr(Fleetlimit, "start_background_work", fail)
    assert await post(app(), 1) == [200]
    await eventually_async(lambda: "background.failed" in log.messages)
    assert "LookupError: gone" in log.text


def test_end_of_the_event_loop_is_no_failure(log: pytest.LogCaptureFixture) -> None:
    """The background work is cancelled with its event loop, and nothing is logged about it."""
    assert asyncio.run(post(app(), 1)) == [200]
    assert "background.failed" not in log.messages


@pytest.mark.parametrize(
    ("way", "statuses"),
    [
        pytest.param("two_apps", [200] * 5 + [429] * 3, id="shared"),
        pytest.param("a_loop_for_each_app", [200] * 5 + [429] * 3, id="closed-with-its-loop"),
        pytest.param("a_loop_for_each_request", [200, 429], id="outlives-its-loop"),
    ],
)
def test_store_variable_shares_the_limit(
    valkey: EmbeddedValkey, way: str, statuses: list[int]
) -> None:
    """With `FLEETLIMIT_STORE`, all apps share buckets, and the end of a loop fails no request."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", default_limiter.__file__, way],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
        env={
            **os.environ,
            "FLEETLIMIT_STORE": valkey.url,
            "FLEETLIMIT_KEY_PREFIX": way,
            "FLEETLIMIT_KEY_SECRET": "0123456789abcdef",
            # Long, because a pause of a busy machine must not count as a failure of the store.
            "FLEETLIMIT_STORE_TIMEOUT": "5",
        },
    )
    assert json.loads(ran.stdout) == statuses
    assert "store.not_shared" not in ran.stderr
