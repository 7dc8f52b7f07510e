"""Valkey Sentinel for one server, as a child process."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from fleetlimit.stores.embedded import EmbeddedValkey, executable, free_port

PASSWORD = "sentinels"  # noqa: S105 - of this test's own server
_START_SECONDS = 10.0
_POLL_SECONDS = 0.02


@contextlib.contextmanager
def sentinel(server: EmbeddedValkey) -> Iterator[int]:
    """Monitor a server under the name `main` and yield the sentinel's port.

    Raises:
        TimeoutError: The sentinel did not start in time.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="fleetlimit-sentinel-") as folder:
        # A sentinel writes its state into its configuration file.
        file = Path(folder) / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass {PASSWORD}\n"
            f"sentinel monitor main 127.0.0.1 {server.port} 1\n"
        )
        command = [executable(), str(file), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port, password=PASSWORD) as link:
                deadline = time.monotonic() + _START_SECONDS
                while not _answers(link):
                    if time.monotonic() > deadline:
                        raise TimeoutError("the sentinel did not start")
                    time.sleep(_POLL_SECONDS)
            yield port
        finally:
            process.kill()
            process.wait()


def _answers(link: redis.Redis) -> bool:
    try:
        return bool(link.ping())
    except redis.ConnectionError:
        return False
