"""Replicas of the service as child processes, stopped on exit whatever the reason."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import cast

from fleetlimit.errors import FleetlimitError
from fleetlimit.telemetry import names

HOST = "127.0.0.1"
_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_LAST_LINES = 5
_LINE_BYTES = 2**20
_SUPPRESSED = names.LOG_DENIED + names.SUPPRESSED
_LISTEN = ("--host", HOST, "--port", "0", "--admin-host", HOST, "--admin-port", "0")
_COMMAND = (sys.executable, "-m", "fleetlimit", "serve", *_LISTEN)


class Replica:
    """One `fleetlimit serve` process, and the denials that its log reports.

    Args:
        name: Name of the replica on the screen.
        command: Command to start.
        stop_seconds: Time to finish after SIGTERM before SIGKILL.
    """

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str] = _COMMAND,
        stop_seconds: float = _STOP_SECONDS,
    ) -> None:
        self.name = name
        self.port = 0
        self.admin_port = 0
        self.denied_in_log = 0
        self._command = command
        self._stop_seconds = stop_seconds
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._started_or_ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._log_reader: asyncio.Task[None] | None = None

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start the process on ports that the system chooses."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
        )
        output = cast("asyncio.StreamReader", process.stdout)  # PIPE above
        self._log_reader = asyncio.get_running_loop().create_task(self._read(output))

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            self.on_log_line(line.decode(errors="replace").rstrip())
        self._started_or_ended.set()

    def on_log_line(self, line: str) -> None:
        """Read the ports and the denials from a line of the log."""
        self._lines.append(line)
        try:
            fields = json.loads(line)
        except ValueError:
            return
        match fields:
            case {"event": "service.ready", "port": int(port), "admin_port": int(admin_port)}:
                self.port, self.admin_port = port, admin_port
                self._started_or_ended.set()
            case {"event": names.LOG_DENIED}:
                self.denied_in_log += 1
            case {"event": event, "suppressed": int(count)} if event == _SUPPRESSED:
                self.denied_in_log += count

    async def wait_until_ready(self) -> None:
        """Wait until the service accepts requests.

        Raises:
            FleetlimitError: The process ended or timed out; the message has its last log lines.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_SECONDS):
                await self._started_or_ended.wait()
        if not self.port:
            last = "\n".join(self._lines) or "(no output)"
            raise FleetlimitError(f"{self.name} did not start; its last lines:\n{last}")

    async def stop(self) -> None:
        """Stop the process, and read its log to the end."""
        process = self._process
        if process is None or self._log_reader is None:
            return
        _signal(signal.SIGTERM, process)
        try:
            async with asyncio.timeout(self._stop_seconds):
                await process.wait()
        except TimeoutError:
            _signal(signal.SIGKILL, process)
            await process.wait()
        await self._log_reader


def _signal(number: signal.Signals, process: asyncio.subprocess.Process) -> None:
    """Send a signal, unless the process has ended.

    `process.send_signal` polls for the exit status first, which takes the status of a process that
    has just ended away from asyncio.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


@contextlib.asynccontextmanager
async def run_replicas(
    count: int, settings: Mapping[str, str], on_progress: Callable[[str], None]
) -> AsyncIterator[list[Replica]]:
    """Start replicas, wait until all accept requests, and stop them on exit.

    Args:
        count: Number of replicas.
        settings: `FLEETLIMIT_*` variables of the replicas, which inherit none of this process.
        on_progress: Called with a line for the screen.

    Raises:
        FleetlimitError: A replica did not start.
    """
    replicas = [Replica(f"replica-{number}") for number in range(1, count + 1)]
    environment = {**_without_product_variables(os.environ), **settings}
    try:
        await start_replicas(replicas, environment, on_progress)
        yield replicas
    finally:
        await asyncio.gather(*(replica.stop() for replica in replicas))


async def start_replicas(
    replicas: Sequence[Replica],
    environment: Mapping[str, str],
    on_progress: Callable[[str], None],
) -> None:
    """Start replicas, and wait until all accept requests.

    Args:
        replicas: The replicas.
        environment: Environment variables of their processes.
        on_progress: Called with a line for the screen at first and after each replica.

    Raises:
        FleetlimitError: A replica did not start.
    """
    # With more than one start for each core, all would be ready only at the end.
    cores = asyncio.Semaphore(os.cpu_count() or 1)

    async def start(replica: Replica) -> None:
        async with cores:
            await replica.start(environment)
            await replica.wait_until_ready()

    starts = [asyncio.ensure_future(start(replica)) for replica in replicas]
    try:
        on_progress(f"replicas ready: 0 of {len(replicas)}")
        for number, ready in enumerate(asyncio.as_completed(starts), start=1):
            await ready
            on_progress(f"replicas ready: {number} of {len(replicas)}")
    finally:
        for each in starts:
            each.cancel()
        await asyncio.gather(*starts, return_exceptions=True)


def _without_product_variables(inherited: Mapping[str, str]) -> dict[str, str]:
    """Remove variables that would change the limits or export traces."""
    return {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("FLEETLIMIT_", "OTEL_"))
    }
