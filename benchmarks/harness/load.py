"""HTTP load generator: persistent connections, open or closed loop, with every latency recorded.

An own client, because it must use less CPU than the server under test, and must count the time
that a request waits behind a slow response (no coordinated omission).
"""

import asyncio
import gc
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END: Final = b"\r\n\r\n"
CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Load:
    """Load on one server.

    Args:
        port: Port of the server on 127.0.0.1.
        requests: Encoded requests.
        seconds: Duration; 0 to end only after `most` requests.
        per_second: Requests a second on a fixed schedule; 0 to send after each response.
        connections: Connections, each with at most one request in flight.
        most: Requests after which the load ends.
    """

    port: int
    requests: Iterator[bytes]
    seconds: float = 0.0
    per_second: float = 0.0
    connections: int = CONNECTIONS
    most: int = 10_000_000


@dataclass(slots=True)
class LoadResult:
    """Responses to a load.

    Args:
        seconds: Duration of the load.
        busy_seconds: CPU seconds of the load generator.
        statuses: Number of responses by status.
        latencies: Seconds of each response, from the time at which its request was due.
    """

    seconds: float = 0.0
    busy_seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def responses(self) -> int:
        """Number of responses."""
        return len(self.latencies)

    @property
    def per_second(self) -> float:
        """Responses a second."""
        return self.responses / self.seconds

    def add(self, other: "LoadResult") -> None:
        """Add the responses of another load."""
        self.seconds += other.seconds
        self.busy_seconds += other.busy_seconds
        self.statuses += other.statuses
        self.latencies.extend(other.latencies)

    def quantile_ms(self, share: float) -> float:
        """Return a quantile of the latencies in milliseconds."""
        ordered = sorted(self.latencies)
        return 1_000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def send(load: Load, connected: Callable[[], None] = lambda: None) -> LoadResult:
    """Send a load and return the responses.

    Args:
        load: The load.
        connected: Called after the connections are open, before the first request.

    Raises:
        ConnectionError: The server closed a connection.
    """
    # uvloop's timers have a resolution of 1 ms, too coarse for a schedule.
    factory = asyncio.new_event_loop if load.per_second else uvloop.new_event_loop
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_send(load, connected))
    finally:
        gc.enable()


async def _send(load: Load, connected: Callable[[], None]) -> LoadResult:
    loop = asyncio.get_running_loop()
    result = LoadResult()
    ended = [loop.create_future() for _ in range(load.connections)]
    connections = [_Connection(load, result, each) for each in ended]
    for connection in connections:
        await loop.create_connection(partial(_identity, connection), "127.0.0.1", load.port)
    connected()
    cpu_before, began = time.process_time(), time.perf_counter()
    for number, connection in enumerate(connections):
        connection.begin(began + (number / load.per_second if load.per_second else 0.0))
    await asyncio.gather(*ended)
    result.seconds = time.perf_counter() - began
    result.busy_seconds = time.process_time() - cpu_before
    for connection in connections:
        connection.end()
    return result


def _identity(connection: "_Connection") -> "_Connection":
    return connection


class _Connection(asyncio.Protocol):
    """One connection, with one request in flight at a time until the load ends."""

    def __init__(self, load: Load, result: LoadResult, ended: asyncio.Future[None]) -> None:
        self._load = load
        self._result = result
        self._ended = ended
        self._pause = load.connections / load.per_second if load.per_second else 0.0
        self._slot = self._due = self._last = 0.0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(ConnectionError(f"the server closed a connection: {error}"))

    def begin(self, due: float) -> None:
        """Send the first request when it is due (`time.perf_counter` seconds)."""
        self._slot = self._due = due
        self._last = due + (self._load.seconds or float("inf"))
        self._next(time.perf_counter())

    def end(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _next(self, now: float) -> None:
        if now >= self._last or self._result.responses >= self._load.most:
            self._ended.set_result(None)
        elif self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self._send_on_time)
        else:
            # The previous response was late. Its delay is the server's, so the latency includes it.
            self._transport.write(next(self._load.requests))

    def _send_on_time(self) -> None:
        # The lateness of the timer is not the server's, so the latency excludes it.
        self._due = max(self._due, time.perf_counter())
        self._transport.write(next(self._load.requests))

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(_END)
        if head < 0:
            return
        found = _LENGTH.search(self._buffer, 0, head)
        if len(self._buffer) < head + len(_END) + (int(found[1]) if found else 0):
            return
        now = time.perf_counter()
        self._result.statuses[int(self._buffer[9:12])] += 1
        self._result.latencies.append(now - self._due)
        self._buffer = b""
        self._slot = self._due = self._slot + self._pause if self._pause else now
        self._next(now)
