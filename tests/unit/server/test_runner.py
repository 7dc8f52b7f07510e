"""Serving within this process, until a signal."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from fleetlimit.bootstrap.settings import Settings
from fleetlimit.errors import ConfigError
from fleetlimit.server.runner import serve
from fleetlimit.stores.embedded import EmbeddedValkey
from support.collector import Collector
from support.server import fetch

POLICIES = "version: 1\npolicies: [{name: default, limits: [{rate: 1/day}]}]\n"


def settings(folder: Path, **given: object) -> Settings:
    (folder / "policies.yaml").write_text(POLICIES)
    usual = {"host": "127.0.0.1", "admin_host": "127.0.0.1", "port": 0, "admin_port": 0}
    return Settings.load(**{**usual, "policies": folder / "policies.yaml", **given})


def test_until_a_signal(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ports answer until SIGTERM; then it returns, its traces sent."""
    asked = []

    async def ask(port: int, admin_port: int) -> None:
        asked.extend([(await fetch(port, "/items/1")).status for _ in range(2)])
        asked.append((await fetch(admin_port, "/readyz")).json["status"])
        os.kill(os.getpid(), signal.SIGTERM)

    tasks = []

    def ready(port: int, admin_port: int) -> None:
        tasks.append(asyncio.get_running_loop().create_task(ask(port, admin_port)))

    with Collector() as collector:
        for name, value in collector.settings.items():
            monkeypatch.setenv(name, value)
        serve(settings(tmp_path, store=valkey.url, key_prefix="run"), on_ready=ready)
        assert asked == [200, 429, "ready"]
        assert {span.name for span in collector.spans} >= {
            "GET /items/{item_id}",
            "fleetlimit.check",
        }


@pytest.mark.parametrize("name", ["port", "admin_port"])
def test_a_port_that_is_taken(tmp_path: Path, name: str) -> None:
    """A port that somebody listens on is named in the error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: choose another"):
            serve(settings(tmp_path, **{name: port}))


def test_an_app_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app whose lifespan fails is told apart from a port that is taken."""
    (tmp_path / "target_that_fails.py").write_text(
        "from fastapi import FastAPI\n"
        "def lifespan(app): raise RuntimeError('no database')\n"
        "app = FastAPI(lifespan=lifespan)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="the app did not start: see the log above"):
        serve(settings(tmp_path, target="target_that_fails:app"))
