"""Script calls of one turn of the event loop travel as one pipeline.

Alone, a call leaves in the turn it was made in: nothing waits for company. In a crowd, the calls
made while others are on their way leave together. That keeps the number of connections small, and
the operation timeout honest: it measures the store, not the queue in front of it. Calls of a script
that decides several at a time are one call then, and each hears its own part of the answer.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from opentelemetry import trace
from redis.exceptions import AskError, NoScriptError, ReadOnlyError, TryAgainError

from fleetlimit.errors import StoreUnavailable
from fleetlimit.stores.redis.client import Client, Timeouts
from fleetlimit.stores.redis.connection import Line, Wire
from fleetlimit.stores.redis.scripts import Call, Command, Script, join, parts

Result = TypeVar("Result")

GRACE_TURNS = 8
"""A busy loop may hear of the answer and of the timeout in one turn. An answer that is there is
worth more than the clock, and costs only these turns to take up."""


def late(seconds: float) -> StoreUnavailable:
    """Return the error of an answer that did not come in time."""
    return StoreUnavailable(f"timeout: no answer within {seconds * 1000:g} ms", kind="timeout")


MAX_IN_FLIGHT = 2
"""Pipelines in flight at once, on one connection: one runs while the next one travels."""
MAX_BATCH = 64
"""Calls in one pipeline. At up to 50 us a script, a replica's pipelines hold the server for 6 ms at
most: a crowd at several replicas is not taken for a store that is away."""


class Flight:
    """One pipeline on its way: its commands, sent once, and the replies or the reason for none.

    Args:
        batch: The calls in it.
        commands: What is sent.
        line: The connection.
        seconds: How long to wait for the replies.
        landed: Callback with the replies, or the exception.
        last: Whether a script that the server does not know is an error.
    """

    __slots__ = (
        "_landed",
        "_line",
        "_loop",
        "_seconds",
        "_timer",
        "batch",
        "commands",
        "ended",
        "last",
    )

    def __init__(
        self,
        batch: list[Call],
        commands: list[Command],
        line: Line,
        seconds: float,
        landed: Callable[["Flight", list[Any] | Exception], None],
        *,
        last: bool = False,
    ) -> None:
        self.batch = batch
        self.commands = commands
        self.last = last
        self.ended = False
        self._line = line
        self._seconds = seconds
        self._landed = landed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle = self._loop.call_later(seconds, self._late, GRACE_TURNS)
        line.ask([command.words() for command in commands], self._heard)

    def _heard(self, outcome: list[Any] | Exception) -> None:
        if not self.ended:
            self.ended = True
            self._timer.cancel()
            self._landed(self, outcome)

    def _late(self, turns: int) -> None:
        if turns:
            self._timer = self._loop.call_soon(self._late, turns - 1)
            return
        self.ended = True
        # On timeout, close the connection and fail every outstanding batch on it.
        why = late(self._seconds)
        self._line.close(why)
        self._landed(self, why)


class Lane:
    """Batches the script calls to one server.

    Args:
        wire: The connection to the server.
        client: The driver's client, for all that is not a script call in a batch.
        timeouts: How long to wait for a reply.
        sent: Callback with the number of calls of each pipeline.
        place: Maps a key to its Cluster slot; None where there are no slots.
        relocate: Looks up which server is the primary, after this one failed or is none any more.
        tracer: Makes the spans of calls within a traced check; OpenTelemetry's global one if None.
    """

    def __init__(
        self,
        wire: Wire,
        client: Client,
        timeouts: Timeouts,
        *,
        sent: Callable[[int], None] = lambda _: None,
        place: Callable[[str], int] | None = None,
        relocate: Callable[[], Awaitable[Any]] | None = None,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self._wire = wire
        self._client = client
        self._timeouts = timeouts
        self._sent = sent
        self._place = place
        self._relocate = relocate
        self._tracer = tracer or trace.get_tracer("fleetlimit")
        self._waiting: deque[Call] = deque()
        self._flights: set[Flight] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Future[Any]] = set()
        self._relocating: asyncio.Task[None] | None = None
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(
        self, script: Script, keys: list[str], args: list[Any], read: Callable[[Any], Result]
    ) -> asyncio.Future[Result]:
        """Run a script once and return the future of its result.

        The future raises `StoreError` if the store did not reply, or replied with an error.

        Args:
            script: The script.
            keys: Its keys.
            args: Its arguments.
            read: Converts the script's reply to the result; raises `TypeError`, `ValueError` or
                `AttributeError` for a reply that the script never gives.
        """
        loop = self._here()
        answer: asyncio.Future[Result] = loop.create_future()
        if trace.get_current_span().is_recording():
            self._trace(script, answer)
        self._waiting.append(Call(script, keys, args, answer, read))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._depart)
        return answer

    def _trace(self, script: Script, answer: asyncio.Future[Any]) -> None:
        """Make a client span of the call, from now until its result or error is there."""
        span = self._tracer.start_span(
            "EVALSHA", kind=trace.SpanKind.CLIENT, attributes=script.span_attributes
        )

        def end(answer: asyncio.Future[Any]) -> None:
            error = None if answer.cancelled() else answer.exception()
            if error is not None:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR, str(error))
            span.end()

        answer.add_done_callback(end)

    def _here(self) -> asyncio.AbstractEventLoop:
        """Return the event loop; with one before it ended all that was under way in that.

        A test client makes a loop for each request.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._scheduled = False
            self._relocating = None
            for each in (self._waiting, self._flights, self._under_way, self._late):
                each.clear()
            self._wire.forget()
        return loop

    async def open(self) -> None:
        """Connect, so that no call waits for that.

        Raises:
            RedisError: There is nobody to connect to.
        """
        self._here()
        await self._wire.open()

    async def aclose(self) -> None:
        """Wait for what is under way; the timeouts bound it."""
        self._here()
        while self._flights or self._under_way or self._late:
            flying = {call.answer for flight in self._flights for call in flight.batch}
            await asyncio.wait(flying | self._under_way | self._late)
            await asyncio.sleep(0)
        self._wire.close()

    def _depart(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._under_way) + len(self._flights) < MAX_IN_FLIGHT:
            size = min(MAX_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            batch = [call for call in batch if not call.answer.done()]
            if not batch:
                continue
            line = self._wire.line
            if line is None:
                self._go(self._connect_and_send(batch))
            else:
                self._send(batch, line)

    def _send(self, batch: list[Call], line: Line, *, last: bool = False) -> None:
        self._sent(len(batch))
        commands = join(batch, self._place)
        seconds = self._timeouts.operation
        self._flights.add(Flight(batch, commands, line, seconds, self._landed, last=last))

    async def _connect_and_send(self, batch: list[Call], *, load: bool = False) -> None:
        """Send a batch once there is a connection, after loading its scripts if need be."""
        try:
            if load:
                await self._within(self._load(batch))
            self._send(batch, await self._within(self._wire.open()), last=load)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers receive it
            self._fail(batch, error)

    async def _load(self, batch: list[Call]) -> list[Any]:
        scripts = {call.script.sha: call.script.text for call in batch}
        return [await self._client.script_load(text) for text in scripts.values()]

    def _landed(self, flight: Flight, outcome: list[Any] | Exception) -> None:
        self._flights.discard(flight)
        if isinstance(outcome, Exception):
            self._fail(flight.batch, outcome)
        else:
            self._deliver(flight, outcome)
        if self._waiting:
            self._depart()

    def _deliver(self, flight: Flight, answers: list[Any]) -> None:
        """Hand out replies, and send again what the server has not run."""
        missing, moved = [], []
        for call, answer in parts(flight.commands, answers):
            if not isinstance(answer, Exception):
                call.hear(answer)
            elif isinstance(answer, NoScriptError) and not flight.last:
                # The server was restarted, failed over or flushed since the scripts were loaded.
                missing.append(call)
            elif isinstance(answer, (AskError, TryAgainError)):
                moved.append(call)
            else:
                call.fail(answer)
                if isinstance(answer, ReadOnlyError):
                    # Behind its name there may be another primary by now.
                    self._wire.close()
                    self._look_for_the_primary()
        if missing:
            self._go(self._connect_and_send(missing, load=True))
        if moved:
            self._go(self._redirect(moved))

    async def _redirect(self, moved: list[Call]) -> None:
        """Send calls by the driver, which follows a Cluster's redirections and learns from them."""
        commands = join(moved, self._place)
        try:
            for command in commands:
                answer = await self._within(self._client.execute_command(*command.words()))
                for call, part in command.answers(answer):
                    call.hear(part)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(moved, error)

    def _fail(self, batch: list[Call], error: Exception) -> None:
        # Also fail the queued calls: they would only time out in turn.
        batch += self._waiting
        self._waiting.clear()
        for call in batch:
            call.fail(error)
        self._look_for_the_primary()

    def _look_for_the_primary(self) -> None:
        if self._relocate is not None and (self._relocating is None or self._relocating.done()):
            self._relocating = asyncio.ensure_future(self._relocated(self._relocate()))
            self._late.add(self._relocating)
            self._relocating.add_done_callback(self._late.discard)

    async def _relocated(self, looking: Awaitable[Any]) -> None:
        with contextlib.suppress(Exception):  # the next call fails, and looks again
            await self._within(looking)

    def _go(self, way: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(way)
        self._under_way.add(task)
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._depart()

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            # Mark the exception as retrieved: its caller has already received the timeout.
            task.exception()

    async def _within(self, work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        await asyncio.wait({task}, timeout=self._timeouts.operation)
        for _ in range(GRACE_TURNS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
        # Not awaited: on Python 3.11 a cancellation can get lost in the driver's own waiting,
        # and then the call ends by the driver's longer timeout.
        task.cancel()
        self._late.add(task)
        task.add_done_callback(self._forget)
        raise late(self._timeouts.operation)
