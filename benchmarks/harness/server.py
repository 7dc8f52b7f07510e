"""One contender's server process, pinned to its own core."""

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fleetlimit.stores.embedded import free_port
from harness.cores import SERVER, pin
from harness.environments import python_of
from harness.lineup import Contender
from harness.policies import write

BENCHMARKS: Final = Path(__file__).resolve().parents[1]
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_UVICORN: Final = (
    *("--loop", "uvloop", "--http", "httptools", "--no-access-log"),
    *("--log-level", "warning", "--workers", "1"),
)


class Server:
    """Context manager that runs a contender's server.

    Args:
        contender: The contender to serve.
        store: URL of the store.
        limit: Requests a minute allowed to each caller.
        principals: Number of API keys; 0 to key the limits on the header itself.
    """

    def __init__(self, contender: Contender, store: str, *, limit: int, principals: int) -> None:
        self.port = free_port()
        self._contender = contender
        self._folder = tempfile.TemporaryDirectory(prefix="fleetlimit-bench-")
        files = write(Path(self._folder.name), limit=limit, principals=principals)
        self._variables = {
            **os.environ,
            **dict(contender.variables),
            "BENCH_STORE": store,
            "BENCH_LIMIT": str(limit),
            "PYTHONPATH": str(BENCHMARKS),
            "FLEETLIMIT_STORE": store,
            "FLEETLIMIT_KEY_SECRET": "a secret of the benchmark",
        }
        if contender.policies:
            self._variables["FLEETLIMIT_POLICIES"] = str(files[contender.policies])

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        log = (Path(self._folder.name) / "log").open("wb")
        with log:
            self._process: subprocess.Popen[Any] = subprocess.Popen(  # noqa: S603 - our own command
                self._command(), env=self._variables, stdout=log, stderr=log, cwd=BENCHMARKS
            )
        pin(self.pid, SERVER)
        while not self._accepts():
            if self._process.poll() is not None or self._elapsed > _START_SECONDS:
                log_end = (Path(self._folder.name) / "log").read_text("utf-8")[-2_000:]
                self.__exit__(None, None, None)
                raise RuntimeError(f"{self._contender.name} did not start:\n{log_end}")
            time.sleep(0.005)
        self.start_seconds = self._elapsed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _command(self) -> list[str]:
        python, app = python_of(self._contender), f"contenders.{self._contender.module}:app"
        port = ("--port", str(self.port))
        if self._contender.served:
            admin = ("--host", "127.0.0.1", "--admin-host", "127.0.0.1", "--admin-port")
            return [python, "-m", "fleetlimit", "serve", app, *port, *admin, str(free_port())]
        return [python, "-m", "uvicorn", app, *port, *_UVICORN]

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds used so far, threads included."""
        # The CPU clock of the process, as by clock_getcpuclockid(3), which Python lacks for other
        # processes. The times in /proc have a resolution of 10 ms, too coarse for a turn.
        return time.clock_gettime((~self.pid << 3) | 2)

    @property
    def resident_bytes(self) -> int:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text("utf-8").split()[1]) * PAGE_BYTES
