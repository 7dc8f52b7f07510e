"""Processes of `fleetlimit serve`, and an HTTP client for them."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import fleetlimit
from support.eventually import eventually_async
from support.shortcuts import Shortcut

_APP = str(Path(fleetlimit.__file__).parents[1])
_TESTS = str(Path(__file__).parents[1])
_SAMPLE = re.compile(r"^(\w+)(?:{(.*?)})? ([^ #]+)(?: # ({.*?}).*)?$")


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """HTTP response, with header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def fetch(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> HTTPResponse:
    """Send one request over a new connection and read the whole response."""
    reader, writer = await send(port, path, method=method, headers=headers, body=body)
    with contextlib.closing(writer):
        return await receive(reader)


async def send(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send one request over a new connection, without reading the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = {"Host": "test", "Connection": "close", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in {**fields, **(headers or {})}.items()]
    writer.write("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body)
    return reader, writer


async def receive(reader: asyncio.StreamReader) -> HTTPResponse:
    """Read a response up to the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.read()
    if headers.get("transfer-encoding") == "chunked":
        body = _dechunked(body)
    elif len(body) != int(headers.get("content-length", len(body))):
        raise ConnectionError("the response was cut off")
    return HTTPResponse(int(status.split()[1]), headers, body)


def _dechunked(raw: bytes) -> bytes:
    body = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        if not size:
            raise ConnectionError("the response was cut off")
        length = int(size, 16)
        if not length:
            return body
        body, raw = body + raw[:length], raw[length + 2 :]


@dataclass(frozen=True, slots=True)
class MetricSample:
    """Sample of a metric, with the labels of its exemplar or an empty string."""

    name: str
    labels: str
    value: float
    exemplar: str


class ServeProcess:
    """Process of `fleetlimit serve` on free ports of the loopback interface.

    Args:
        arguments: Further arguments of the command.
        folder: Working directory.
        settings: Environment variables. `FLEETLIMIT_*` and `OTEL_*` are not inherited.
        without: What is not saved on the way to the store.
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path | None = None,
        settings: Mapping[str, str] | None = None,
        without: Sequence[Shortcut] = (),
    ) -> None:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FLEETLIMIT_", "OTEL_"))
        }
        paths = [_APP, _TESTS, *filter(None, [own.get("PYTHONPATH")])]
        environment = {**own, "PYTHONPATH": os.pathsep.join(paths), **(settings or {})}
        ports = ("--port", "0", "--admin-port", "0")
        hosts = ("--host", "127.0.0.1", "--admin-host", "127.0.0.1")
        program = ("support.shortcuts", ",".join(without)) if without else ("fleetlimit",)
        command = [sys.executable, "-m", *program, "serve", *hosts, *ports, *arguments]
        self.output: list[str] = []
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self.output.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Log lines so far."""
        return [json.loads(line) for line in tuple(self.output) if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [line for line in self.lines if line["event"] == event]

    async def ready(self) -> Self:
        """Wait until the service is ready."""
        await eventually_async(
            lambda: self.logged("service.ready") or self._process.poll() is not None
        )
        assert self.logged("service.ready"), "\n".join(self.output)
        return self

    @property
    def port(self) -> int:
        """Port of the API."""
        return int(self.logged("service.ready")[0]["port"])

    @property
    def admin_port(self) -> int:
        """Admin port."""
        return int(self.logged("service.ready")[0]["admin_port"])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        await eventually_async(lambda: self._process.poll() is not None)
        await asyncio.to_thread(self._reader.join)
        return self._process.wait()

    async def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def kill(self) -> None:
        """Kill the process if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()

    async def get(self, path: str, **headers: str) -> HTTPResponse:
        """Send a GET request to the API."""
        return await fetch(self.port, path, headers=headers)

    async def admin(self, path: str, **headers: str) -> HTTPResponse:
        """Send a GET request to the admin port."""
        return await fetch(self.admin_port, path, headers=headers)

    async def samples(self, name: str, *labels: str) -> list[MetricSample]:
        """Return the samples of a metric whose labels contain all given texts, such as `a="b"`."""
        accept = "application/openmetrics-text; version=1.0.0"
        text = (await self.admin("/metrics", Accept=accept)).body.decode()
        found = [match.groups("") for line in text.splitlines() if (match := _SAMPLE.match(line))]
        samples = [MetricSample(each[0], each[1], float(each[2]), each[3]) for each in found]
        return [
            each
            for each in samples
            if each.name == name and all(label in each.labels for label in labels)
        ]

    async def metric(self, name: str, *labels: str) -> float:
        """Return the sum of the samples of a metric, selected like in `samples`."""
        return sum(sample.value for sample in await self.samples(name, *labels))
