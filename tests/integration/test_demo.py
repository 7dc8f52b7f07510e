"""Demonstration from end to end: real processes, a real store, and a complete clean-up."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fleetlimit.demo.options import DemoOptions
from fleetlimit.demo.replicas import Replica, run_replicas
from fleetlimit.demo.run import run
from fleetlimit.demo.scrape import read_counters
from fleetlimit.errors import FleetlimitError, StoreError
from fleetlimit.stores.embedded import EmbeddedValkey, free_port
from support.eventually import PATIENCE_SECONDS

_PROC = Path("/proc")
needs_proc = pytest.mark.skipif(
    not (_PROC / "self" / "environ").exists(), reason="processes are looked up under /proc"
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fleetlimit", "demo", *arguments]


def left_behind(folder: Path) -> list[str]:
    """Return the processes that use this folder for temporary files, or run in it.

    A Valkey server overwrites its environment with its title, so it is found by its working folder.
    """
    found = []
    for process in _PROC.glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            home = (process / "cwd").readlink()
            title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"TMPDIR={folder}".encode() in environment or home.is_relative_to(folder):
            found.append(title)
    return found


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Return the folder for temporary files of the demonstration."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def environment(folder: Path) -> dict[str, str]:
    # These variables must not reach the replicas.
    unwanted = {"FLEETLIMIT_TARGET": "no.such:app", "OTEL_TRACES_EXPORTER": "no-such"}
    return {**os.environ, **unwanted, "TMPDIR": str(folder)}


@needs_proc
def test_demo_of_300_requests_over_two_replicas_holds_the_limit(folder: Path) -> None:
    """The limit holds, all counts agree, JSON is the only output, and nothing is left behind."""
    done = subprocess.run(
        command("--json", "--requests", "300", "--replicas", "2"),
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["admitted"] == result["permitted"] > 0
    assert result["admitted"] + result["denied"] == result["requests"] == 300
    assert (result["overshoot"], result["errors"], result["tallies_agree"]) == (0, 0, True)
    assert [row["name"] for row in result["replicas"]] == ["replica-1", "replica-2"]
    assert all(row["allowed"] and row["denied"] for row in result["replicas"])
    assert sum(row["allowed"] for row in result["replicas"]) == result["admitted"]
    assert 0 < result["redis_commands_per_request"] <= 1.2
    assert left_behind(folder) == []
    assert list(folder.iterdir()) == []


@needs_proc
@pytest.mark.parametrize(
    ("stage", "number", "to_group"),
    [
        ("replicas ready: 0", signal.SIGINT, True),
        ("sending", signal.SIGINT, True),
        ("sending", signal.SIGTERM, False),
    ],
)
def test_signal_leaves_nothing_behind(
    folder: Path, stage: str, number: signal.Signals, *, to_group: bool
) -> None:
    """Ctrl-C reaches the whole group, SIGTERM the command alone; both stop every process."""
    with subprocess.Popen(
        command("--json", "--requests", "100000", "--replicas", "2"),
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(stage):
                break
        # The command, its store, and two replicas once requests are sent.
        assert len(left_behind(folder)) >= (4 if stage == "sending" else 2)
        (os.killpg if to_group else os.kill)(process.pid, number)
        out, notes = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number
    assert out == ""
    assert notes.endswith("stopped\n")
    assert left_behind(folder) == []
    assert list(folder.iterdir()) == []


def test_signal_sets_the_exit_status_of_a_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM during the run: exit status 128 and its number, and no result."""

    class Notes(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("sending"):
                os.kill(os.getpid(), signal.SIGTERM)
            return super().write(text)

    notes = Notes()
    monkeypatch.setattr(sys, "stderr", notes)
    options = DemoOptions(replicas=1, requests=100_000, store="memory://", json=True)
    assert run(options) == 128 + signal.SIGTERM
    assert notes.getvalue().endswith("stopped\n")
    assert capsys.readouterr().out == ""


def test_result_is_printed_and_saved_as_svg(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Outside a terminal the result is printed once; the picture is the same."""
    picture = tmp_path / "demo.svg"
    assert run(DemoOptions(replicas=2, requests=80, principals=2, svg=picture)) == 0
    shown = capsys.readouterr()
    assert "The limit holds" in shown.out
    assert "sending 80 requests" in shown.err
    assert "The&#160;limit&#160;holds" in picture.read_text(encoding="utf-8")


def test_running_store_is_used(valkey: EmbeddedValkey, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs against one store do not share buckets, and no store is started."""
    for _ in range(2):
        assert run(DemoOptions(replicas=1, requests=40, store=valkey.url, json=True)) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["admitted"] == json.loads(shown.out)["permitted"]
        assert "Valkey" not in shown.err


def test_replicas_without_a_shared_store_overshoot(capsys: pytest.CaptureFixture[str]) -> None:
    """Each replica admits the whole limit (dataspoke #112; litellm #2730): exit status 1."""
    assert run(DemoOptions(replicas=2, requests=120, store="memory://", json=True)) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["overshoot"] == result["admitted"] - result["permitted"] > 0
    assert result["tallies_agree"]


def test_unavailable_store_is_an_error_before_the_replicas_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Replicas without a store would not limit anything."""
    with pytest.raises(StoreError, match="connection"):
        run(DemoOptions(store=f"redis://127.0.0.1:{free_port()}"))
    assert "replicas" not in capsys.readouterr().err


async def test_replica_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    """The message has the last lines of its log."""
    settings = {"FLEETLIMIT_POLICIES": str(tmp_path / "no-such.yaml")}
    with pytest.raises(FleetlimitError, match=r"replica-1 did not start(.|\n)*no-such\.yaml"):
        async with run_replicas(1, settings, lambda _: None):
            pytest.fail("it must not start")


async def test_replica_that_ignores_sigterm_is_killed() -> None:
    """A process that ignores SIGTERM has ended after `stop`."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        """print('{"event": "service.ready", "port": 1, "admin_port": 2}', flush=True); """
        "time.sleep(600)"
    )
    replica = Replica("one", command=[sys.executable, "-c", stubborn], stop_seconds=0.05)
    await replica.start(os.environ)
    await replica.wait_until_ready()
    await replica.stop()
    assert replica.port == 1
    await replica.stop()


async def test_metrics_of_a_stopped_replica_are_an_error() -> None:
    """The message names the replica."""
    with pytest.raises(FleetlimitError, match="no metrics from replica-1"):
        await read_counters({"replica-1": free_port()})
