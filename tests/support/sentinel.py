"""Valkey Sentinel for one server, as a child process."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis

from fleetlimit.stores.embedded import EmbeddedValkey, executable, free_port
from support.eventually import LOCAL_POLL_S, PATIENCE_SECONDS, eventually

PASSWORD = "sentinels"  # noqa: S105 - of this test's own server


@contextlib.contextmanager
def sentinel(server: EmbeddedValkey) -> Iterator[int]:
    """Monitor a server under the name `main` and yield the sentinel's port."""
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
                eventually(
                    lambda: _answers(link),
                    within=PATIENCE_SECONDS,
                    what="the sentinel has started",
                    poll_s=LOCAL_POLL_S,
                )
            yield port
        finally:
            process.kill()
            process.wait()


def _answers(link: redis.Redis) -> bool:
    try:
        return bool(link.ping())
    except redis.ConnectionError:
        return False
