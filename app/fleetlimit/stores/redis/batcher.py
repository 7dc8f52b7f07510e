"""Command batcher: the script calls of one event-loop iteration share a pipeline.

An idle batcher sends a call at the end of the current event-loop iteration; there is no batching
delay. While `MAX_IN_FLIGHT` pipelines are in flight, further calls queue and share the next one. So
one connection is enough, and the operation timeout measures the store and not a queue in front of
it. Calls of a batchable script share one EVALSHA, and each receives its part of the reply.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from opentelemetry import trace
from redis.exceptions import AskError, NoScriptError, ReadOnlyError, TryAgainError

from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.stores.redis.client import Client, Timeouts
from fleetlimit.stores.redis.connection import ConnectionHolder, RedisConnection
from fleetlimit.stores.redis.errors import to_store_error
from fleetlimit.stores.redis.scripts import (
    Script,
    ScriptCall,
    ScriptCommand,
    coalesce,
)

Result = TypeVar("Result")

GRACE_LOOP_TURNS = 8
"""Event-loop iterations between a timeout and its error. After a pause of the loop, the timeout and
a reply that arrived in time are both due; these iterations let the reply win."""


def timeout_error(seconds: float) -> StoreUnavailable:
    """Return the error for a reply that did not arrive in time."""
    return StoreUnavailable(f"timeout: no answer within {seconds * 1000:g} ms", kind="timeout")


MAX_IN_FLIGHT = 2
"""Pipelines in flight at once, on one connection: one runs while the next one is on the network."""
MAX_BATCH = 64
"""Calls in one pipeline. At up to 50 us for a script call, the pipelines of one replica occupy the
server for at most 6 ms, so a burst at several replicas does not exceed the operation timeout."""


class InFlightBatch:
    """One pipeline in flight, with its timeout.

    Args:
        batch: The calls in the pipeline.
        commands: The commands to send.
        connection: The connection to send them on.
        seconds: Timeout of the replies.
        on_done: Callback with the replies, or the exception; called once.
        scripts_loaded: Whether the scripts were just loaded, so that NOSCRIPT is an error.
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
        "scripts_loaded",
    )

    def __init__(
        self,
        batch: list[ScriptCall],
        commands: list[ScriptCommand],
        connection: RedisConnection,
        seconds: float,
        on_done: Callable[["InFlightBatch", list[Any] | Exception], None],
        *,
        scripts_loaded: bool = False,
    ) -> None:
        self.batch = batch
        self.commands = commands
        self.scripts_loaded = scripts_loaded
        self.done = False
        self._connection = connection
        self._seconds = seconds
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle = self._loop.call_later(
            seconds, self._on_timeout, GRACE_LOOP_TURNS
        )
        connection.send(list(map(ScriptCommand.args, commands)), self._on_replies)

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
        error = timeout_error(self._seconds)
        self._connection.close(error)
        self._on_done(self, error)


class CommandBatcher:
    """Sends the script calls to one server, in pipelines.

    Args:
        connections: Holder of the connection to the server.
        client: redis-py's client, for SCRIPT LOAD and redirected calls.
        timeouts: Timeouts of calls.
        on_pipeline_sent: Callback with the number of calls of each pipeline.
        slot_of: Maps a key to its Cluster slot; None without a Cluster.
        relocate: Looks up the primary again, after this server failed or became a replica.
        tracer: Starts a span for each call of a traced check; None for OpenTelemetry's global
            tracer.
    """

    def __init__(
        self,
        connections: ConnectionHolder,
        client: Client,
        timeouts: Timeouts,
        *,
        on_pipeline_sent: Callable[[int], None] | None = None,
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
        # Not a `TaskSet`: these tasks count as pipelines in flight, and each sends the next one.
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
            keys: KEYS.
            args: ARGV.
            decode: Converts the script's raw reply to the result type; raises `TypeError`,
                `ValueError` or `AttributeError` for an invalid reply.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind_loop(loop)
        future: asyncio.Future[Result] = loop.create_future()
        if trace.get_current_span().is_recording():
            self._trace(script, future)
        self._queue.append(ScriptCall(script, keys, args, future, decode))
        if not self._scheduled:
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

    def _bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use another event loop, and drop all calls of the previous one.

        Starlette's `TestClient` runs each request in its own loop.
        """
        self._loop = loop
        self._scheduled = False
        self._relocating = None
        for each in (self._queue, self._in_flight, self._tasks, self._abandoned):
            each.clear()
        self._connections.reset()

    async def open(self) -> None:
        """Connect, so that the first call does not have to.

        Raises:
            RedisError: The server does not accept the connection.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind_loop(loop)
        await self._connections.open()

    def disconnect(self) -> None:
        """Close the connection; calls in flight fail."""
        self._connections.close()

    async def aclose(self) -> None:
        """Wait for calls in flight, which have timeouts, and close the connection."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind_loop(loop)
        while self._in_flight or self._tasks or self._abandoned:
            futures = {call.future for batch in self._in_flight for call in batch.batch}
            await asyncio.wait(futures | self._tasks | self._abandoned)
            await asyncio.sleep(0)
        self._connections.close()

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and len(self._tasks) + len(self._in_flight) < MAX_IN_FLIGHT:
            batch: list[ScriptCall] = []
            while self._queue and len(batch) < MAX_BATCH:
                call = self._queue.popleft()
                # The caller may have been cancelled.
                if not call.future.done():
                    batch.append(call)
            if not batch:
                return
            connection = self._connections.connection
            if connection is None:
                self._spawn(self._connect_and_send(batch))
            else:
                self._send_commands(batch, connection)

    def _send_commands(
        self, batch: list[ScriptCall], connection: RedisConnection, *, scripts_loaded: bool = False
    ) -> None:
        if self._on_pipeline_sent is not None:
            self._on_pipeline_sent(len(batch))
        self._in_flight.add(
            InFlightBatch(
                batch,
                coalesce(batch, self._slot_of),
                connection,
                self._timeouts.operation,
                self._on_batch_done,
                scripts_loaded=scripts_loaded,
            )
        )

    async def _connect_and_send(self, batch: list[ScriptCall], *, load: bool = False) -> None:
        """Send a batch on a new connection; with `load`, load its scripts first."""
        try:
            if load:
                await self._with_timeout(self._load_scripts(batch))
            self._send_commands(
                batch, await self._with_timeout(self._connections.open()), scripts_loaded=load
            )
        except Exception as error:  # noqa: BLE001 - the callers receive any error
            self._fail(batch, error)

    async def _load_scripts(self, batch: list[ScriptCall]) -> list[Any]:
        scripts = {call.script.sha: call.script.text for call in batch}
        return [await self._client.script_load(text) for text in scripts.values()]

    def _on_batch_done(self, sent: InFlightBatch, outcome: list[Any] | Exception) -> None:
        self._in_flight.discard(sent)
        if isinstance(outcome, Exception):
            self._fail(sent.batch, outcome)
        else:
            self._distribute(sent, outcome)
        if self._queue:
            self._flush()

    def _distribute(self, sent: InFlightBatch, replies: list[Any]) -> None:
        """Complete calls with their replies, and resend the calls that the server did not run."""
        missing, moved = [], []
        # Equal errors of a pipeline are one object, which the breaker counts as one failure.
        errors: dict[str, StoreError] = {}
        for command, reply in zip(sent.commands, replies, strict=True):
            for call, part in command.split(reply):
                if not isinstance(part, Exception):
                    call.complete(part)
                elif isinstance(part, NoScriptError) and not sent.scripts_loaded:
                    # A restart, a failover or SCRIPT FLUSH dropped the loaded scripts.
                    missing.append(call)
                elif isinstance(part, (AskError, TryAgainError)):
                    moved.append(call)
                else:
                    call.fail(errors.setdefault(str(part), to_store_error(part)))
                    if isinstance(part, ReadOnlyError):
                        # The server became a replica: its host name may lead to a new primary.
                        self._connections.close()
                        self._start_relocation()
        if missing:
            self._spawn(self._connect_and_send(missing, load=True))
        if moved:
            self._spawn(self._redirect(moved))

    async def _redirect(self, moved: list[ScriptCall]) -> None:
        """Send calls through redis-py, which follows redirections and updates its topology."""
        commands = coalesce(moved, self._slot_of)
        try:
            for command in commands:
                reply = await self._with_timeout(self._client.execute_command(*command.args()))
                for call, part in command.split(reply):
                    call.complete(part)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(moved, error)

    def _fail(self, batch: list[ScriptCall], error: Exception) -> None:
        # Also fail the queued calls: they would only time out in turn.
        batch += self._queue
        self._queue.clear()
        # One object for all calls: the circuit breaker counts it as one failure.
        error = to_store_error(error)
        for call in batch:
            call.fail(error)
        self._start_relocation()

    def _start_relocation(self) -> None:
        if self._relocate is not None and (self._relocating is None or self._relocating.done()):
            self._relocating = asyncio.ensure_future(self._finish_relocation(self._relocate()))
            self._abandoned.add(self._relocating)
            self._relocating.add_done_callback(self._abandoned.discard)

    async def _finish_relocation(self, relocation: Awaitable[Any]) -> None:
        with contextlib.suppress(Exception):  # the next failed call relocates again
            await self._with_timeout(relocation)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
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
        # The cancelled task is not awaited: on Python 3.11 redis-py's own timeouts can swallow the
        # cancellation, and the call then ends at redis-py's longer timeout.
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._discard_abandoned)
        raise timeout_error(self._timeouts.operation)
