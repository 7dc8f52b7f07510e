"""Server runner, in this process, until a signal."""

import asyncio
import gc
import os
import signal
import socket
from pathlib import Path

import pytest

from fleetlimit.bootstrap.gc_tuning import GC_THRESHOLD
from fleetlimit.errors import ConfigError
from fleetlimit.server.runner import serve
from fleetlimit.server.settings import ServerSettings
from fleetlimit.stores.embedded import EmbeddedValkey
from support.collector import Collector
from support.server import fetch

POLICIES = "version: 1\npolicies: [{name: default, limits: [{rate: 1/day}]}]\n"


def settings(folder: Path, **given: object) -> ServerSettings:
    (folder / "policies.yaml").write_text(POLICIES)
    usual = {"host": "127.0.0.1", "admin_host": "127.0.0.1", "port": 0, "admin_port": 0}
    return ServerSettings.load(**{**usual, "policies": folder / "policies.yaml", **given})


def test_serve_answers_until_a_signal(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ports answer until SIGTERM; then traces are exported, and `serve` returns."""
    responses = []

    async def ask(port: int, admin_port: int) -> None:
        responses.extend([(await fetch(port, "/items/1")).status for _ in range(2)])
        responses.append((await fetch(admin_port, "/readyz")).json["status"])
        os.kill(os.getpid(), signal.SIGTERM)

    tasks = []

    def ready(port: int, admin_port: int) -> None:
        tasks.append(asyncio.get_running_loop().create_task(ask(port, admin_port)))

    with Collector() as collector:
        for name, value in collector.settings.items():
            monkeypatch.setenv(name, value)
        serve(settings(tmp_path, store=valkey.url, key_prefix="run"), on_ready=ready)
        assert responses == [200, 429, "ready"]
        assert {span.name for span in collector.spans} >= {
            "GET /items/{item_id}",
            "fleetlimit.check",
        }


def test_serve_tunes_the_gc(tmp_path: Path) -> None:
    """While it serves, the generation-0 threshold is raised and the heap is frozen."""
    before, during = gc.get_threshold(), []

    def on_ready(_port: int, _admin_port: int) -> None:
        during.append((gc.get_threshold()[0], gc.get_freeze_count() > 0))
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        serve(settings(tmp_path), on_ready=on_ready)
    finally:
        gc.unfreeze()
    assert during == [(GC_THRESHOLD, True)]
    assert gc.get_threshold() == before


@pytest.mark.parametrize("name", ["port", "admin_port"])
def test_serve_names_the_port_in_use(tmp_path: Path, name: str) -> None:
    """The error has the address in use, and the fix."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: choose another"):
            serve(settings(tmp_path, **{name: port}))


def test_serve_reports_a_failed_lifespan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a failed lifespan differs from that of a port in use."""
    (tmp_path / "target_that_fails.py").write_text(
        "from fastapi import FastAPI\n"
        "def lifespan(app): raise RuntimeError('no database')\n"
        "app = FastAPI(lifespan=lifespan)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="the app did not start: see the log above"):
        serve(settings(tmp_path, target="target_that_fails:app"))
