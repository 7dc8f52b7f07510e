"""Sends requests over kept connections and takes the time of each answer.

A client of its own: it must cost less than what it measures, follow a schedule without leaving out
the requests that a slow server delays, and leave the same process free to look at the store.
"""

import asyncio
import gc
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END: Final = b"\r\n\r\n"
CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent.

    Args:
        port: Where the server listens.
        requests: What to send.
        seconds: For how long; 0 for no end but `most`.
        per_second: Requests a second, evenly spread; 0 for as many as are answered.
        connections: Connections, each with one request under way at most.
        most: Requests after which it ends.
    """

    port: int
    requests: Iterator[bytes]
    seconds: float = 0.0
    per_second: float = 0.0
    connections: int = CONNECTIONS
    most: int = 10_000_000


@dataclass(slots=True)
class Heard:
    """What was answered.

    Args:
        seconds: How long it took.
        busy_seconds: CPU that the client itself used.
        statuses: Answers by status.
        latencies: Seconds of each answer.
    """

    seconds: float = 0.0
    busy_seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """How many were answered."""
        return len(self.latencies)

    @property
    def per_second(self) -> float:
        """How many were answered in a second."""
        return self.answers / self.seconds

    def add(self, other: "Heard") -> None:
        """Take over what was heard another time."""
        self.seconds += other.seconds
        self.busy_seconds += other.busy_seconds
        self.statuses += other.statuses
        self.latencies += other.latencies

    def quantile_ms(self, share: float) -> float:
        """Return the milliseconds within which a share of the requests was answered."""
        ordered = sorted(self.latencies)
        return 1_000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def send(load: Load) -> Heard:
    """Send a load and return what was heard.

    Raises:
        ConnectionError: The server closed a connection.
    """
    # uvloop's timers are whole milliseconds, too coarse for a schedule.
    factory = asyncio.new_event_loop if load.per_second else uvloop.new_event_loop
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_send(load))
    finally:
        gc.enable()


async def _send(load: Load) -> Heard:
    loop = asyncio.get_running_loop()
    heard = Heard()
    ended = [loop.create_future() for _ in range(load.connections)]
    lines = [_Line(load, heard, each) for each in ended]
    for line in lines:
        await loop.create_connection(partial(_itself, line), "127.0.0.1", load.port)
    worked, began = time.process_time(), time.perf_counter()
    for number, line in enumerate(lines):
        line.begin(began + (number / load.per_second if load.per_second else 0.0))
    await asyncio.gather(*ended)
    heard.seconds = time.perf_counter() - began
    heard.busy_seconds = time.process_time() - worked
    for line in lines:
        line.end()
    return heard


def _itself(line: "_Line") -> "_Line":
    return line


class _Line(asyncio.Protocol):
    """One connection: a request, its answer, and so on until the time is over."""

    def __init__(self, load: Load, heard: Heard, ended: asyncio.Future[None]) -> None:
        self._load = load
        self._heard = heard
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
        """Send the first request when it is due."""
        self._slot = self._due = due
        self._last = due + (self._load.seconds or float("inf"))
        self._next(time.perf_counter())

    def end(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _next(self, now: float) -> None:
        if now >= self._last or self._heard.answers >= self._load.most:
            self._ended.set_result(None)
        elif self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self._send_on_time)
        else:
            # Late because of the answer before: the wait is the server's, and counts.
            self._transport.write(next(self._load.requests))

    def _send_on_time(self) -> None:
        # The timer's own lateness is not the server's.
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
        self._heard.statuses[int(self._buffer[9:12])] += 1
        self._heard.latencies.append(now - self._due)
        self._buffer = b""
        self._slot = self._due = self._slot + self._pause if self._pause else now
        self._next(now)
