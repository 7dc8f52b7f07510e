"""Script calls of one turn of the event loop travel as one pipeline.

Alone, a call leaves in the turn it was made in: nothing waits for company. In a crowd, the calls
made while others are on their way leave together. That keeps the number of connections small, and
the operation timeout honest: it measures the store, not the queue in front of it. Calls of a script
that decides several at a time are one call then, and each hears its own part of the answer.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import redis.asyncio
from opentelemetry import trace
from redis.exceptions import NoScriptError, ReadOnlyError

from fleetlimit.errors import StoreUnavailable
from fleetlimit.stores.redis.client import Client, Timeouts
from fleetlimit.stores.redis.connection import Line, Wire
from fleetlimit.stores.redis.errors import translate
from fleetlimit.stores.redis.scripts import Call, Command, Script, join, parts

GRACE_TURNS = 8
"""A busy loop may hear of the answer and of the timeout in one turn. An answer that is there is
worth more than the clock, and costs only these turns to take up."""


def late(seconds: float) -> StoreUnavailable:
    """Return the error of an answer that did not come in time."""
    return StoreUnavailable(f"timeout: no answer within {seconds * 1000:g} ms", kind="timeout")


async def asked(line: Line, commands: list[Command]) -> list[Any]:
    """Send commands and return their answers; who gives up waiting leaves the connection."""
    heard: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def hear(outcome: list[Any] | Exception) -> None:
        if heard.done():
            return
        if isinstance(outcome, Exception):
            heard.set_exception(outcome)
        else:
            heard.set_result(outcome)

    line.ask([command.words() for command in commands], hear)
    try:
        return await heard
    except asyncio.CancelledError:
        # Nobody waits any more because it took too long, for those who come behind as well.
        line.close(TimeoutError("no answer to what was sent before"))
        raise


class Flight:
    """Sends commands, and says once what became of them; no task is made for it.

    Args:
        batch: The calls in them.
        commands: What is sent.
        line: The connection.
        seconds: How long to wait for the answers.
        landed: Is told the answers, or why there are none.
    """

    __slots__ = ("_landed", "_line", "_loop", "_seconds", "_timer", "batch", "commands", "ended")

    def __init__(
        self,
        batch: list[Call],
        commands: list[Command],
        line: Line,
        seconds: float,
        landed: Callable[["Flight", list[Any] | Exception], None],
    ) -> None:
        self.batch = batch
        self.commands = commands
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
        # A server that is late with one answer is left, with all that it still owes.
        why = late(self._seconds)
        self._line.close(why)
        self._landed(self, why)


Result = TypeVar("Result")

MAX_IN_FLIGHT = 2
"""Pipelines under way at once, each on its own connection."""
MAX_BATCH = 64
"""Calls in one pipeline. At up to 50 us a script, a replica's pipelines hold the server for 6 ms at
most: a crowd at several replicas is not taken for a store that is away."""


class Lane:
    """The way to one store.

    Args:
        client: The driver's client; never retries by itself.
        timeouts: How long to wait for an answer.
        sent: Told for each pipeline how many calls are in it.
        place: Tells of a key in which Cluster slot it is; None where there are none.
    """

    def __init__(
        self,
        client: Client,
        timeouts: Timeouts,
        *,
        sent: Callable[[int], None] = lambda _: None,
        place: Callable[[str], int] | None = None,
    ) -> None:
        self._client = client
        self._timeouts = timeouts
        self._sent = sent
        self._place = place
        # A cluster's driver knows which node has which slot, and when they move.
        pool = client.connection_pool if isinstance(client, redis.asyncio.Redis) else None
        self._wire = Wire(pool) if pool is not None else None
        self._waiting: deque[Call] = deque()
        self._flights: set[Flight] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Future[Any]] = set()
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(
        self,
        script: Script,
        keys: list[str],
        args: list[Any],
        read: Callable[[Any], Result],
        heard: Callable[[Result], object] | None = None,
    ) -> asyncio.Future[Result]:
        """Run a script once; its answer is awaited.

        The answer raises `StoreError` if the store did not answer, or not with success.

        Args:
            script: The script.
            keys: Its keys.
            args: Its arguments.
            read: Makes of the script's answer what is waited for; where it raises, the answer is
                none that the script gives.
            heard: Is told what was made, before the one who waits goes on.
        """
        loop = self._here()
        answer: asyncio.Future[Result] = loop.create_future()
        context = contextvars.copy_context()
        self._waiting.append(Call(script, keys, args, answer, context, read, heard))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._depart)
        return answer

    def _here(self) -> asyncio.AbstractEventLoop:
        """Return the event loop; with one before it ended all that was under way in that.

        A test client makes a loop for each request.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._scheduled = False
            for each in (self._waiting, self._flights, self._under_way, self._late):
                each.clear()
            if self._wire is not None:
                self._wire.forget()
        return loop

    async def open(self) -> None:
        """Connect, so that no call waits for that.

        Raises:
            RedisError: There is nobody to connect to.
        """
        self._here()
        if self._wire is not None:
            await self._wire.open()

    async def aclose(self) -> None:
        """Wait for what is under way; the timeouts bound it."""
        self._here()
        while self._flights or self._under_way or self._late:
            flying = {call.answer for flight in self._flights for call in flight.batch}
            await asyncio.wait(flying | self._under_way | self._late)
            await asyncio.sleep(0)
        if self._wire is not None:
            self._wire.close()

    def _depart(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._under_way) + len(self._flights) < MAX_IN_FLIGHT:
            size = min(MAX_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            batch = [call for call in batch if not call.answer.done()]
            if not batch:
                continue
            # What is traced goes by the driver, whose instrumentation makes a span of it.
            traced = self._wire is None or batch[0].context.run(_is_traced)
            line = None if traced or self._wire is None else self._wire.line
            if line is None:
                # In the context of its first call, whose trace it belongs to. A copy: it hears the
                # answer in its own, and none can be entered twice.
                self._go(self._travel(batch, traced=traced), batch[0].context.copy())
            else:
                self._sent(len(batch))
                commands = join(batch, self._place)
                seconds = self._timeouts.operation
                self._flights.add(Flight(batch, commands, line, seconds, self._landed))

    def _landed(self, flight: Flight, outcome: list[Any] | Exception) -> None:
        self._flights.discard(flight)
        if isinstance(outcome, Exception):
            self._fail(flight.batch, outcome)
        else:
            missing, demoted = self._deliver(parts(flight.commands, outcome))
            if demoted:
                self._go(self.disconnect())
            if missing:
                self._go(self._travel_again(missing, traced=False))
        if self._waiting:
            self._depart()

    def _go(
        self, way: Coroutine[Any, Any, None], context: contextvars.Context | None = None
    ) -> None:
        task = asyncio.get_running_loop().create_task(way, context=context)
        self._under_way.add(task)
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._depart()

    async def _travel(self, batch: list[Call], *, traced: bool) -> None:
        try:
            missing, demoted = self._deliver(await self._within(self._send(batch, traced=traced)))
            if demoted:
                await self.disconnect()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' to hear
            self._fail(batch, error)
        else:
            if missing:
                await self._travel_again(missing, traced=traced)

    async def _travel_again(self, missing: list[Call], *, traced: bool) -> None:
        # The server was restarted, failed over or flushed since the scripts were loaded. What it
        # does not know it has not run, so these calls are safe to send again.
        try:
            await self._within(self._load(missing))
            answers = await self._within(self._send(missing, traced=traced))
            self._deliver(answers, last=True)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(missing, error)

    def _fail(self, batch: list[Call], error: Exception) -> None:
        # Who waited behind a store that does not answer is not made to wait for it again.
        batch += self._waiting
        self._waiting.clear()
        for call in batch:
            if not call.answer.done():
                call.answer.set_exception(translate(error))

    def _deliver(
        self, answers: Iterable[tuple[Call, Any]], *, last: bool = False
    ) -> tuple[list[Call], bool]:
        """Hand out answers.

        Returns:
            The calls whose script the server did not know, and whether it is a primary no more:
            behind its name there may be another one by now.
        """
        missing, demoted = [], False
        for call, answer in answers:
            if not isinstance(answer, Exception):
                call.hear(answer)
                continue
            demoted = demoted or isinstance(answer, ReadOnlyError)
            if isinstance(answer, NoScriptError) and not last:
                missing.append(call)
            elif not call.answer.done():
                call.answer.set_exception(translate(answer))
        return missing, demoted

    async def _send(self, batch: list[Call], *, traced: bool) -> list[tuple[Call, Any]]:
        commands = join(batch, self._place)
        self._sent(len(batch))
        if self._wire is not None and not traced:
            line = await self._wire.open()
            return parts(commands, await asked(line, commands))
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            # Not `evalsha()`: redis-py's Cluster pipeline blocks the method, not the command.
            pipeline.execute_command(*command.words())
        return parts(commands, await pipeline.execute(raise_on_error=False))

    async def _load(self, batch: list[Call]) -> list[Any]:
        scripts = {call.script.sha: call.script.text for call in batch}
        return [await self._client.script_load(text) for text in scripts.values()]

    async def disconnect(self) -> None:
        """Close connections, so that the next call opens one to whoever answers then."""
        if self._wire is not None:
            self._wire.close()
        pool = getattr(self._client, "connection_pool", None)
        if pool is not None:
            await pool.disconnect(inuse_connections=False)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            # It ended too late for anybody to hear of it.
            task.exception()

    async def _within(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        await asyncio.wait({task}, timeout=self._timeouts.operation)
        for _ in range(GRACE_TURNS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
        # Not waited for: on Python 3.11 a cancellation can get lost in the driver's own waiting,
        # and then the call ends by the driver's longer timeout.
        task.cancel()
        self._late.add(task)
        task.add_done_callback(self._forget)
        raise late(self._timeouts.operation)


def _is_traced() -> bool:
    return trace.get_current_span().is_recording()
