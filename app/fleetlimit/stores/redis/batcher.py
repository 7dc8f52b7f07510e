"""Command batcher: the script calls of one event-loop iteration share a pipeline.

An idle batcher sends a call at the end of the current event-loop iteration, or at once if the calls
before it were alone, too; there is no batching delay. While `MAX_IN_FLIGHT` pipelines have no
replies yet, further calls queue and share the next one. So one connection is enough. A call waits
at most the operation timeout in the queue, and a pipeline as long for its replies. Calls of a
batchable script share one EVALSHA, and each receives its part of the reply. A lost connection is
opened again in the background.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from opentelemetry import context, trace
from redis.exceptions import AskError, InvalidResponse, NoScriptError, TryAgainError

from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.connection import Connection, Connections
from fleetlimit.stores.redis.errors import RECONNECT_KINDS, timeout_error, to_store_error
from fleetlimit.stores.redis.recovery import CommandClient, Recovery
from fleetlimit.stores.redis.scripts import Script, ScriptCall, ScriptCommand, coalesce
from fleetlimit.stores.redis.tick_timer import TickTimer

Result = TypeVar("Result")

MAX_IN_FLIGHT = 2
"""Pipelines in flight at once, on one connection: one runs while the next one is on the network."""
MAX_BATCH = 64
"""Calls in one pipeline. At up to 50 us for a script call, the pipelines of one replica occupy the
server for at most 6 ms, so a burst at several replicas does not exceed the operation timeout."""

MAX_BATCH_KEYS = 256
"""Keys in one pipeline, the last call's excepted. A check of many limits is several times the work
of one: 64 checks of eight full sliding logs would occupy the server for some 30 ms."""

MIN_LONE_CALLS = 16
"""Calls in a row, each alone, after which the next one is not expected to share a pipeline. It is
sent without another iteration of the event loop, which would cost a system call."""


@dataclass(slots=True, eq=False)
class InFlightBatch:
    """One pipeline in flight.

    Args:
        batch: The calls in the pipeline.
        commands: The commands of the calls.
        connection: The connection on which they were sent.
        sent_at_tick: Number of the timer tick at which they were sent.
        loads: Number of SCRIPT LOAD commands before them.
    """

    batch: list[ScriptCall]
    commands: list[ScriptCommand]
    connection: Connection
    sent_at_tick: int
    loads: int


class CommandBatcher:
    """Sends the script calls to one server, in pipelines.

    Args:
        connections: Holder of the connection to the server.
        client: Client for redirected calls.
        timeouts: Timeouts of calls.
        own_loop: Event loop of the store. The store calls `reset` when another one replaces it.
        on_pipeline_sent: Callback with the number of calls of each pipeline.
        slot_of: Maps a key to its Cluster slot; None without a Cluster.
        relocate: Looks up the primary again, after this server failed or became a replica, or
            rejected the credentials.
        tracer: Starts a span for each call of a traced check; None for OpenTelemetry's global
            tracer.
    """

    def __init__(
        self,
        connections: Connections,
        client: CommandClient,
        timeouts: Timeouts,
        own_loop: OwnLoop,
        *,
        on_pipeline_sent: Callable[[int], None] | None = None,
        slot_of: Callable[[str], int] | None = None,
        relocate: Callable[[], Awaitable[Any]] | None = None,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self._connections = connections
        self._timeouts = timeouts
        self._own_loop = own_loop
        self._on_pipeline_sent = on_pipeline_sent
        self._slot_of = slot_of
        self._recovery = Recovery(client, timeouts, slot_of, relocate)
        self._tracer = tracer or trace.get_tracer("fleetlimit")
        self._queue: deque[ScriptCall] = deque()
        self._in_flight: set[InFlightBatch] = set()
        # Not a `TaskSet`: these tasks count as pipelines in flight, and each sends the next one.
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._timer = TickTimer(timeouts.operation, self._fail_late)
        self._queue_error: StoreError | None = None
        self._queue_error_tick = 0
        self._scheduled = False
        # Calls in a row that found nothing queued and nothing in flight.
        self._lone_calls = 0
        connections.on_lost = self._connect

    def call(
        self, script: Script, keys: list[str], args: list[Any], decode: Callable[[Any], Result]
    ) -> asyncio.Future[Result]:
        """Run a script once and return the future of its result.

        The future raises `StoreError` if the store did not reply, or replied with an error.

        Args:
            script: The script.
            keys: KEYS.
            args: ARGV.
            decode: Converts the script's raw reply to the result type; raises `TypeError`,
                `ValueError`, `AttributeError` or `OverflowError` for an invalid reply.

        Raises:
            ConfigError: Another event loop, which is running, uses the store.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._own_loop.loop:
            self._own_loop.require()
        future: asyncio.Future[Result] = loop.create_future()
        # Without an active context there is no span, and this is the cheaper question.
        if context.get_current() and trace.get_current_span().is_recording():
            self._trace(script, future)
        is_alone = not self._queue and not self._in_flight
        self._lone_calls = self._lone_calls + 1 if is_alone else 0
        self._queue.append(ScriptCall(script, keys, args, future, decode, self._timer.number))
        if self._lone_calls > MIN_LONE_CALLS:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return future

    def _trace(self, script: Script, future: asyncio.Future[Any]) -> None:
        """Start a client span of the call, and end it when the future is done."""
        span = self._tracer.start_span(
            "EVALSHA", kind=trace.SpanKind.CLIENT, attributes=script.span_attributes
        )

        def end(future: asyncio.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR, str(error))
            span.end()

        future.add_done_callback(end)

    def reset(self, ended: asyncio.AbstractEventLoop) -> None:
        """Fail the calls that are left in an event loop that has ended, and drop its connection.

        Args:
            ended: The event loop. If it is closed, nothing waits for its calls.
        """
        if not ended.is_closed():
            error = StoreUnavailable("the event loop of the call has ended", kind="connection")
            for call in [
                *self._queue,
                *(call for batch in self._in_flight for call in batch.batch),
            ]:
                call.fail(error)
        self._scheduled = False
        self._connecting = None
        self._timer.reset()
        for each in (self._queue, self._in_flight, self._tasks):
            each.clear()
        self._recovery.reset()
        self._connections.reset()

    async def open(self, *scripts: Script) -> None:
        """Connect and load scripts, over the connection that calls use.

        Raises:
            RedisError: The server does not accept the connection, or a script.
        """
        self._own_loop.require()
        outcome: list[Any] | Exception = []
        for _ in range(2):
            outcome = await self._load(await self._connections.open(), scripts)
            if not isinstance(outcome, Exception):
                break
            # The first connection may be one that the server has closed since.
        for each in [outcome] if isinstance(outcome, Exception) else outcome:
            if isinstance(each, Exception):
                # A new connection may lead to another server, with other credentials.
                self._connections.close()
                raise each

    async def _load(
        self, connection: Connection, scripts: Sequence[Script]
    ) -> list[Any] | Exception:
        loaded: asyncio.Future[list[Any] | Exception] = asyncio.get_running_loop().create_future()
        connection.send(list(map(_load_command, scripts)), partial(_set_unless_done, loaded))
        try:
            return await loaded
        except asyncio.CancelledError:
            # A server that does not reply within the timeout of the caller is left.
            connection.close(timeout_error(self._timeouts.opening))
            raise

    def disconnect(self) -> None:
        """Close the connection; calls in flight fail."""
        self._connections.close()

    async def aclose(self) -> None:
        """Wait for calls in flight, which have timeouts, and close the connection."""
        self._own_loop.require()
        while self._in_flight or self._queue or self._tasks or self._recovery.unfinished:
            calls = [*self._queue, *(call for batch in self._in_flight for call in batch.batch)]
            futures = {call.future for call in calls}
            await asyncio.wait(futures | self._tasks | self._recovery.unfinished)
            await asyncio.sleep(0)
        self._connections.close()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})

    def _flush(self) -> None:
        self._scheduled = False
        connection = self._connections.connection
        if connection is None:
            self._timer.start()
            self._connect()
            return
        while self._queue and len(self._tasks) + len(self._in_flight) < MAX_IN_FLIGHT:
            batch = self._take_batch()
            if not batch:
                return
            self._send_commands(batch, connection)
            self._timer.start()

    def _take_batch(self) -> list[ScriptCall]:
        """Return the next calls of the queue, without those whose callers were cancelled."""
        queue = self._queue
        batch: list[ScriptCall] = []
        keys = 0
        while queue and len(batch) < MAX_BATCH and keys < MAX_BATCH_KEYS:
            call = queue.popleft()
            if not call.future.done():
                batch.append(call)
                keys += len(call.keys)
        return batch

    def _send_commands(
        self, batch: list[ScriptCall], connection: Connection, *, load: bool = False
    ) -> None:
        """Send a batch; with `load`, load its scripts first, in the same pipeline."""
        if self._on_pipeline_sent is not None:
            self._on_pipeline_sent(len(batch))
        commands = coalesce(batch, self._slot_of)
        sending: list[tuple[Any, ...]] = []
        if load:
            sending += map(_load_command, {call.script: None for call in batch})
        sent = InFlightBatch(batch, commands, connection, self._timer.number, len(sending))
        for each in commands:
            sending.append(each.args())
        self._in_flight.add(sent)
        connection.send(sending, lambda outcome: self._on_batch_done(sent, outcome))

    def _fail_late(self) -> bool:
        """Fail the pipelines and the queued calls that have waited for the operation timeout.

        Returns:
            Whether any are left.
        """
        last_late_tick = self._timer.last_late
        for sent in list(self._in_flight):
            if sent.sent_at_tick <= last_late_tick and not sent.connection.closed:
                # Close the connection and fail every outstanding batch on it.
                sent.connection.close(timeout_error(self._timeouts.operation))
                self._connect()
        self._fail_late_calls(last_late_tick)
        return bool(self._in_flight or self._queue)

    def _fail_late_calls(self, last_late_tick: int) -> None:
        while self._queue and self._queue[0].made_at_tick <= last_late_tick:
            if self._queue_error is None or self._queue_error_tick <= last_late_tick:
                # For all calls of one operation timeout, which the breaker counts as one failure.
                milliseconds = self._timeouts.operation * 1000
                self._queue_error = StoreUnavailable(
                    f"timeout: not sent within {milliseconds:g} ms", kind="timeout"
                )
                self._queue_error_tick = self._timer.number
            self._queue.popleft().fail(self._queue_error)

    def _connect(self) -> None:
        """Connect in the background; queued calls are sent when the connection is open."""
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._open_connection())

    async def _open_connection(self) -> None:
        try:
            async with asyncio.timeout(self._timeouts.opening):
                await self._connections.open()
        except Exception as error:  # noqa: BLE001 - the callers receive any error
            self._fail([], error)
        finally:
            self._connecting = None
        if self._queue:
            self._flush()

    def _on_batch_done(self, sent: InFlightBatch, outcome: list[Any] | Exception) -> None:
        self._in_flight.discard(sent)
        if isinstance(outcome, Exception):
            self._fail(sent.batch, outcome)
        else:
            try:
                self._distribute(sent, outcome)
            except InvalidResponse as response_error:
                # Later replies on this connection may belong to other commands.
                error = to_store_error(response_error)
                sent.connection.close(error)
                self._fail(sent.batch, error)
                self._connect()
        if self._queue:
            self._flush()

    def _distribute(self, sent: InFlightBatch, replies: list[Any]) -> None:
        """Complete the calls of a pipeline with its replies.

        Raises:
            InvalidResponse: A reply is not one of its script. The calls before it have their
                results, except those that the server did not run: they fail with the pipeline.
        """
        loads: list[Any] = []
        if sent.loads:
            loads, replies = replies[: sent.loads], replies[sent.loads :]
        missing: list[ScriptCall] = []
        moved: list[ScriptCall] = []
        # Equal errors of a pipeline are one object, which the breaker counts as one failure.
        errors: dict[str, StoreError] = {}
        for index, command in enumerate(sent.commands):
            for call, part in command.split(replies[index]):
                # Most replies are lists, for which this is the cheaper question.
                if type(part) is list or not isinstance(part, Exception):
                    call.complete(part)
                elif isinstance(part, NoScriptError) and not loads:
                    # A restart, a failover or SCRIPT FLUSH dropped the loaded scripts.
                    missing.append(call)
                elif isinstance(part, (AskError, TryAgainError)):
                    moved.append(call)
                else:
                    self._fail_call(call, part, loads, errors)
        if missing:
            self._send_commands(missing, sent.connection, load=True)
        if moved:
            self._spawn(self._recovery.redirect(moved))

    def _fail_call(
        self, call: ScriptCall, reply: Exception, loads: list[Any], errors: dict[str, StoreError]
    ) -> None:
        # If SCRIPT LOAD failed, its error is the reason for NOSCRIPT.
        reason = next((each for each in loads if isinstance(each, Exception)), reply)
        error = errors.setdefault(str(reason), to_store_error(reason))
        call.fail(error)
        # Not by redis-py's class: Redis 6.2 has the code in the text of a script error.
        if error.kind in RECONNECT_KINDS:
            self._connections.close()
            self._recovery.relocate()

    def _fail(self, batch: list[ScriptCall], error: Exception) -> None:
        # Also fail the queued calls: they would only time out in turn.
        batch += self._queue
        self._queue.clear()
        # One object for all calls: the circuit breaker counts it as one failure.
        error = to_store_error(error)
        for call in batch:
            call.fail(error)
        self._recovery.relocate()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._queue:
            self._flush()


def _load_command(script: Script) -> tuple[str, ...]:
    return ("SCRIPT", "LOAD", script.text)


def _set_unless_done(future: asyncio.Future[Any], outcome: object) -> None:
    if not future.done():
        future.set_result(outcome)
