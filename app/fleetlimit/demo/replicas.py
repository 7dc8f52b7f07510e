"""Real processes of the service, which are gone when the fleet is left, whatever the reason."""

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
    """One process of the service, and what its log says.

    Args:
        name: Its name.
        command: What to start.
        stop_seconds: How long it may take to finish before it is killed.
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
        output = cast("asyncio.StreamReader", process.stdout)  # it was asked for above
        self._log_reader = asyncio.get_running_loop().create_task(self._read(output))

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            self.on_log_line(line.decode(errors="replace").rstrip())
        self._started_or_ended.set()

    def on_log_line(self, line: str) -> None:
        """Take note of a line of the log."""
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
            FleetlimitError: It ended first, or took too long; the message has its last lines.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_SECONDS):
                await self._started_or_ended.wait()
        if not self.port:
            last = "\n".join(self._lines) or "(it said nothing)"
            raise FleetlimitError(f"{self.name} did not start; its last lines:\n{last}")

    async def stop(self) -> None:
        """Let the process finish, or kill it, and read its log to the end."""
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

    Not `process.send_signal`: it looks for the exit status first, and so takes away from asyncio
    that of a process which has just ended.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


@contextlib.asynccontextmanager
async def run_replicas(
    count: int, settings: Mapping[str, str], on_progress: Callable[[str], None]
) -> AsyncIterator[list[Replica]]:
    """Start so many replicas and wait until all accept requests.

    Args:
        count: How many.
        settings: Their `FLEETLIMIT_*` variables; no other one is passed on.
        on_progress: Is told how it goes.

    Raises:
        FleetlimitError: One did not start.
    """
    replicas = [Replica(f"replica-{number}") for number in range(1, count + 1)]
    environment = {**_without_product_variables(os.environ), **settings}
    try:
        for replica in replicas:
            await replica.start(environment)
        for number, replica in enumerate(replicas):
            on_progress(f"replicas ready: {number} of {count}")
            await replica.wait_until_ready()
        yield replicas
    finally:
        await asyncio.gather(*(replica.stop() for replica in replicas))


def _without_product_variables(inherited: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would change the demonstration, or send its traces somewhere."""
    return {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("FLEETLIMIT_", "OTEL_"))
    }
