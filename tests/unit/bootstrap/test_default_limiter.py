"""An app that sets up nothing but the dependency."""

import json
import logging
import os
import subprocess
import sys

import pytest
from starlette.testclient import TestClient

from fleetlimit.stores.embedded import EmbeddedValkey
from support import default_limiter
from support.default_limiter import app, post


def test_nothing_set_up() -> None:
    """The dependency alone limits, also where every request has an event loop of its own."""
    client = TestClient(app())
    statuses = [client.post("/exports").status_code for _ in range(6)]
    assert statuses == [200] * 5 + [429]


async def test_exactly_one_warning(log: pytest.LogCaptureFixture) -> None:
    """However many requests come at once, one warning says that the limit is per process."""
    assert await post(app(), 20) == [200] * 5 + [429] * 15
    warnings = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "limits hold within this process only; set FLEETLIMIT_STORE=redis://" in warnings[0]


@pytest.mark.parametrize(
    ("way", "statuses"),
    [
        pytest.param("two_apps", [200] * 5 + [429] * 3, id="shared"),
        pytest.param("a_loop_for_each_app", [200] * 5 + [429] * 3, id="closed-with-its-loop"),
        pytest.param("a_loop_for_each_request", [200, 429], id="outlives-its-loop"),
    ],
)
def test_the_variable_alone_makes_it_shared(
    valkey: EmbeddedValkey, way: str, statuses: list[int]
) -> None:
    """With `FLEETLIMIT_STORE` all apps count together, and no request fails for a loop's end."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", default_limiter.__file__, way],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={
            **os.environ,
            "FLEETLIMIT_STORE": valkey.url,
            "FLEETLIMIT_KEY_PREFIX": way,
            "FLEETLIMIT_KEY_SECRET": "0123456789abcdef",
            # No pause of a busy machine may look like an unavailable store.
            "FLEETLIMIT_STORE_TIMEOUT": "5",
        },
    )
    assert json.loads(ran.stdout) == statuses
    assert "store.not_shared" not in ran.stderr
