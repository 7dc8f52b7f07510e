"""The contenders' shared store: an embedded Valkey, and its own statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any, Final

import redis

from fleetlimit.stores.embedded import EmbeddedValkey
from harness.cores import OTHERS, pin

_SCRIPTS: Final = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")
_OWN: Final = frozenset({"cmdstat_info", "cmdstat_config|resetstat", "cmdstat_flushall"})


@dataclass(frozen=True, slots=True)
class Work:
    """Work of the store between two readings of its statistics.

    Args:
        calls: Script calls; without any, all commands of clients.
        all_scripts_us: Microseconds of all script calls, 0 without any.
        reads: Reads from a connection. One read usually fetches a whole pipeline.
        busy_seconds: CPU seconds of the server.
        net_bytes: Bytes received and sent.
    """

    calls: int = 0
    all_scripts_us: float = 0.0
    reads: int = 0
    busy_seconds: float = 0.0
    net_bytes: int = 0

    @property
    def script_us(self) -> float:
        """Microseconds of one script call."""
        return self.all_scripts_us / max(1, self.calls)

    def __add__(self, other: "Work") -> "Work":
        return Work(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )


class Store:
    """The running store, and the readings of its statistics.

    Args:
        server: The server's process.
    """

    def __init__(self, server: EmbeddedValkey) -> None:
        self.url = server.url
        self.port = server.port
        self.client: Any = redis.Redis.from_url(server.url)

    def clear(self) -> None:
        """Delete all keys, and reset the statistics."""
        self.client.flushall()
        self.client.config_resetstat()
        self._busy = self._cpu()

    def work(self) -> Work:
        """Return the work since `clear` or the previous call."""
        found = self.client.info("all")
        stats = {name: each for name, each in found.items() if name.startswith("cmdstat_")}
        scripts = [stats[name] for name in _SCRIPTS if name in stats]
        calls = sum(each["calls"] for each in scripts)
        micros = sum(each["usec"] for each in scripts)
        if not calls:
            calls = sum(each["calls"] for name, each in stats.items() if name not in _OWN)
            micros = 0
        self.client.config_resetstat()
        busy, self._busy = self._busy, self._cpu()
        return Work(
            calls,
            micros,
            found["total_reads_processed"],
            self._busy - busy,
            found["total_net_input_bytes"] + found["total_net_output_bytes"],
        )

    def bytes_per_bucket(self) -> float:
        """Return the mean `MEMORY USAGE` of a bucket, in bytes."""
        # The keys of membership and audit, tagged {fleet}, are no buckets.
        keys = [key for key in self.client.scan_iter(count=1_000) if b"{fleet}" not in key]
        # A key that expired since the scan has no size.
        used = [self.client.memory_usage(key, samples=0) for key in keys]
        sizes = [each for each in used if each is not None]
        return float(sum(sizes) / len(sizes))

    def _cpu(self) -> float:
        found = self.client.info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


@contextmanager
def running() -> Iterator[Store]:
    """Run a store on the cores that the contender's server does not use."""
    with EmbeddedValkey() as server:
        pin(server.pid, OTHERS)
        yield Store(server)
