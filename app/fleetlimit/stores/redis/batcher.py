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
from fleetlimit.stores.redis.connection import ConnectionHolder, RedisConnection
from fleetlimit.stores.redis.scripts import (
    Script,
    ScriptCall,
    ScriptCommand,
    coalesce,
    split_replies,
)

Result = TypeVar("Result")

GRACE_LOOP_TURNS = 8
"""A busy loop may hear of the answer and of the timeout in one turn. An answer that is there is
worth more than the clock, and costs only these turns to take up."""


def timeout_error(seconds: float) -> StoreUnavailable:
    """Return the error of an answer that did not come in time."""
    return StoreUnavailable(f"timeout: no answer within {seconds * 1000:g} ms", kind="timeout")


MAX_IN_FLIGHT = 2
"""Pipelines in flight at once, on one connection: one runs while the next one travels."""
MAX_BATCH = 64
"""Calls in one pipeline. At up to 50 us a script, a replica's pipelines hold the server for 6 ms at
most: a crowd at several replicas is not taken for a store that is away."""


class InFlightBatch:
    """One pipeline on its way: its commands, sent once, and the replies or the reason for none.

    Args:
        batch: The calls in it.
        commands: What is sent.
        connection: The connection.
        seconds: How long to wait for the replies.
        on_done: Callback with the replies, or the exception.
        last: Whether a script that the server does not know is an error.
    """

    __slots__ = (
        "_connection",
        "_loop",
        "_on_done",
        "_seconds",
        "_timer",
        "batch",
        "commands",
        "done",
        "last",
    )

    def __init__(
        self,
        batch: list[ScriptCall],
        commands: list[ScriptCommand],
        connection: RedisConnection,
        seconds: float,
        on_done: Callable[["InFlightBatch", list[Any] | Exception], None],
        *,
        last: bool = False,
    ) -> None:
        self.batch = batch
        self.commands = commands
        self.last = last
        self.done = False
        self._connection = connection
        self._seconds = seconds
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle = self._loop.call_later(
            seconds, self._on_timeout, GRACE_LOOP_TURNS
        )
        connection.send([command.args() for command in commands], self._on_replies)

    def _on_replies(self, outcome: list[Any] | Exception) -> None:
        if not self.done:
            self.done = True
            self._timer.cancel()
            self._on_done(self, outcome)

    def _on_timeout(self, turns: int) -> None:
        if turns:
            self._timer = self._loop.call_soon(self._on_timeout, turns - 1)
            return
        self.done = True
        # On timeout, close the connection and fail every outstanding batch on it.
        why = timeout_error(self._seconds)
        self._connection.close(why)
        self._on_done(self, why)


class CommandBatcher:
    """Batches the script calls to one server.

    Args:
        connections: The connection to the server.
        client: The driver's client, for all that is not a script call in a batch.
        timeouts: How long to wait for a reply.
        on_pipeline_sent: Callback with the number of calls of each pipeline.
        slot_of: Maps a key to its Cluster slot; None where there are no slots.
        relocate: Looks up which server is the primary, after this one failed or is none any more.
        tracer: Makes the spans of calls within a traced check; OpenTelemetry's global one if None.
    """

    def __init__(
        self,
        connections: ConnectionHolder,
        client: Client,
        timeouts: Timeouts,
        *,
        on_pipeline_sent: Callable[[int], None] = lambda _: None,
        slot_of: Callable[[str], int] | None = None,
        relocate: Callable[[], Awaitable[Any]] | None = None,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self._connections = connections
        self._client = client
        self._timeouts = timeouts
        self._on_pipeline_sent = on_pipeline_sent
        self._slot_of = slot_of
        self._relocate = relocate
        self._tracer = tracer or trace.get_tracer("fleetlimit")
        self._queue: deque[ScriptCall] = deque()
        self._in_flight: set[InFlightBatch] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.Future[Any]] = set()
        self._relocating: asyncio.Task[None] | None = None
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(
        self, script: Script, keys: list[str], args: list[Any], decode: Callable[[Any], Result]
    ) -> asyncio.Future[Result]:
        """Run a script once and return the future of its result.

        The future raises `StoreError` if the store did not reply, or replied with an error.

        Args:
            script: The script.
            keys: Its keys.
            args: Its arguments.
            decode: Converts the script's reply to the result; raises `TypeError`, `ValueError` or
                `AttributeError` for a reply that the script never gives.
        """
        loop = self._bind_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        if trace.get_current_span().is_recording():
            self._trace(script, answer)
        self._queue.append(ScriptCall(script, keys, args, answer, decode))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
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

    def _bind_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop; with one before it ended all that was under way in that.

        A test client makes a loop for each request.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._scheduled = False
            self._relocating = None
            for each in (self._queue, self._in_flight, self._tasks, self._abandoned):
                each.clear()
            self._connections.reset()
        return loop

    async def open(self) -> None:
        """Connect, so that no call waits for that.

        Raises:
            RedisError: There is nobody to connect to.
        """
        self._bind_loop()
        await self._connections.open()

    def disconnect(self) -> None:
        """Close the connection; calls in flight fail."""
        self._connections.close()

    async def aclose(self) -> None:
        """Wait for what is under way; the timeouts bound it."""
        self._bind_loop()
        while self._in_flight or self._tasks or self._abandoned:
            flying = {call.future for flight in self._in_flight for call in flight.batch}
            await asyncio.wait(flying | self._tasks | self._abandoned)
            await asyncio.sleep(0)
        self._connections.close()

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and len(self._tasks) + len(self._in_flight) < MAX_IN_FLIGHT:
            size = min(MAX_BATCH, len(self._queue))
            batch = [self._queue.popleft() for _ in range(size)]
            batch = [call for call in batch if not call.future.done()]
            if not batch:
                continue
            line = self._connections.connection
            if line is None:
                self._spawn(self._connect_and_send(batch))
            else:
                self._send_commands(batch, line)

    def _send_commands(
        self, batch: list[ScriptCall], line: RedisConnection, *, last: bool = False
    ) -> None:
        self._on_pipeline_sent(len(batch))
        commands = coalesce(batch, self._slot_of)
        seconds = self._timeouts.operation
        self._in_flight.add(
            InFlightBatch(batch, commands, line, seconds, self._on_batch_done, last=last)
        )

    async def _connect_and_send(self, batch: list[ScriptCall], *, load: bool = False) -> None:
        """Send a batch once there is a connection, after loading its scripts if need be."""
        try:
            if load:
                await self._with_timeout(self._load_scripts(batch))
            self._send_commands(
                batch, await self._with_timeout(self._connections.open()), last=load
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers receive it
            self._fail(batch, error)

    async def _load_scripts(self, batch: list[ScriptCall]) -> list[Any]:
        scripts = {call.script.sha: call.script.text for call in batch}
        return [await self._client.script_load(text) for text in scripts.values()]

    def _on_batch_done(self, flight: InFlightBatch, outcome: list[Any] | Exception) -> None:
        self._in_flight.discard(flight)
        if isinstance(outcome, Exception):
            self._fail(flight.batch, outcome)
        else:
            self._distribute(flight, outcome)
        if self._queue:
            self._flush()

    def _distribute(self, flight: InFlightBatch, answers: list[Any]) -> None:
        """Hand out replies, and send again what the server has not run."""
        missing, moved = [], []
        for call, answer in split_replies(flight.commands, answers):
            if not isinstance(answer, Exception):
                call.complete(answer)
            elif isinstance(answer, NoScriptError) and not flight.last:
                # The server was restarted, failed over or flushed since the scripts were loaded.
                missing.append(call)
            elif isinstance(answer, (AskError, TryAgainError)):
                moved.append(call)
            else:
                call.fail(answer)
                if isinstance(answer, ReadOnlyError):
                    # Behind its name there may be another primary by now.
                    self._connections.close()
                    self._look_for_the_primary()
        if missing:
            self._spawn(self._connect_and_send(missing, load=True))
        if moved:
            self._spawn(self._redirect(moved))

    async def _redirect(self, moved: list[ScriptCall]) -> None:
        """Send calls by the driver, which follows a Cluster's redirections and learns from them."""
        commands = coalesce(moved, self._slot_of)
        try:
            for command in commands:
                answer = await self._with_timeout(self._client.execute_command(*command.args()))
                for call, part in command.split(answer):
                    call.complete(part)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(moved, error)

    def _fail(self, batch: list[ScriptCall], error: Exception) -> None:
        # Also fail the queued calls: they would only time out in turn.
        batch += self._queue
        self._queue.clear()
        for call in batch:
            call.fail(error)
        self._look_for_the_primary()

    def _look_for_the_primary(self) -> None:
        if self._relocate is not None and (self._relocating is None or self._relocating.done()):
            self._relocating = asyncio.ensure_future(self._relocated(self._relocate()))
            self._abandoned.add(self._relocating)
            self._relocating.add_done_callback(self._abandoned.discard)

    async def _relocated(self, looking: Awaitable[Any]) -> None:
        with contextlib.suppress(Exception):  # the next call fails, and looks again
            await self._with_timeout(looking)

    def _spawn(self, way: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(way)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._queue:
            self._flush()

    def _discard_abandoned(self, task: asyncio.Future[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            # Mark the exception as retrieved: its caller has already received the timeout.
            task.exception()

    async def _with_timeout(self, work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        await asyncio.wait({task}, timeout=self._timeouts.operation)
        for _ in range(GRACE_LOOP_TURNS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
        # Not awaited: on Python 3.11 a cancellation can get lost in the driver's own waiting,
        # and then the call ends by the driver's longer timeout.
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._discard_abandoned)
        raise timeout_error(self._timeouts.operation)
