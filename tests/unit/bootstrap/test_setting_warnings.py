"""Worker processes of the server, and the warning about their metrics."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fleetlimit import Fleetlimit
from fleetlimit.bootstrap.setting_warnings import worker_processes
from fleetlimit.stores.embedded import EmbeddedValkey


@pytest.mark.parametrize(
    ("command", "variables", "number"),
    [
        ("gunicorn -w 4 -k uvicorn.workers.UvicornWorker shop:app", {}, 4),
        ("gunicorn -w4 shop:app", {}, 4),
        ("gunicorn shop:app", {"GUNICORN_CMD_ARGS": "--workers=3"}, 3),
        ("gunicorn -w 1 shop:app", {"GUNICORN_CMD_ARGS": "--workers=3"}, 1),
        ("uvicorn shop:app --workers 2", {}, 2),
        ("uvicorn shop:app --workers=2", {"WEB_CONCURRENCY": "5"}, 2),
        ("uvicorn shop:app", {"WEB_CONCURRENCY": "5"}, 5),
        ("uvicorn shop:app", {"WEB_CONCURRENCY": "many"}, 1),
        ("uvicorn shop:app", {}, 1),
        ("gunicorn --worker-class x --worker-connections 9 shop:app", {}, 1),
    ],
)
def test_worker_processes_are_those_of_the_server(
    command: str, variables: dict[str, str], number: int
) -> None:
    """The command line prevails over the variable, as in the servers."""
    assert worker_processes(command.split(), variables) == number


@pytest.mark.parametrize(("workers", "count"), [("4", 1), ("1", 0)])
def test_metrics_of_several_processes_are_warned_about(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, workers: str, count: int
) -> None:
    """Each process has its own counts, and a scrape reaches one of them by chance."""
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    with TestClient(FastAPI(lifespan=Fleetlimit())):
        pass
    lines = [line for line in log.messages if "metrics.per_process" in line]
    assert len(lines) == count
    assert all("workers=4" in line and "one process per pod" in line for line in lines)


@pytest.mark.parametrize(
    ("workers", "replica", "count"), [("4", "api-0", 1), ("4", "", 0), ("1", "api-0", 0)]
)
def test_name_of_several_processes_is_warned_about(
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    workers: str,
    replica: str,
    count: int,
) -> None:
    """With one name, the processes would count as one replica that has the whole limit."""
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    monkeypatch.setenv("FLEETLIMIT_REPLICA", replica)
    with (
        EmbeddedValkey() as valkey,
        TestClient(FastAPI(lifespan=Fleetlimit(valkey.url))),
    ):
        pass
    lines = [line for line in log.messages if "replicas.one_name" in line]
    assert len(lines) == count
    assert all("replica=api-0" in line and "leave it out" in line for line in lines)


def test_handlers_that_do_not_run_are_warned_about(log: pytest.LogCaptureFixture) -> None:
    """An app that receives a lifespan may have handlers, which FastAPI then ignores."""

    def connect() -> None: ...

    app = FastAPI(lifespan=Fleetlimit())
    app.router.on_startup.append(connect)
    app.router.on_shutdown.append(connect)
    with TestClient(app):
        pass
    [line] = [line for line in log.messages if "handlers.ignored" in line]
    assert "['connect', 'connect']" in line
    assert "move this code into a lifespan" in line


def test_app_without_handlers_is_not_warned_about(log: pytest.LogCaptureFixture) -> None:
    """A lifespan alone ignores nothing."""
    with TestClient(FastAPI(lifespan=Fleetlimit())):
        pass
    assert not [line for line in log.messages if "handlers.ignored" in line]
