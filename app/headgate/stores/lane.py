"""Script calls of one turn of the event loop travel as one pipeline.

Alone, a call leaves in the turn it was made in: nothing waits for company. In a crowd, the calls
made while others are on their way leave together. That keeps the number of connections small, and
the operation timeout honest: it measures the store, not the queue in front of it.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError, ReadOnlyError

from headgate.core.errors import StoreUnavailable
from headgate.stores.connect import Client, Timeouts
from headgate.stores.faults import translate

MAX_IN_FLIGHT = 2
"""Pipelines under way at once, each on its own connection."""
MAX_BATCH = 64
"""Calls in one pipeline. At up to 50 us a script, a replica's pipelines hold the server for 6 ms at
most: a crowd at several replicas is not taken for a store that is away."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its SHA-1, by which the server knows it."""

    name: str
    text: str
    sha: str


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    script: Script
    keys: list[str]
    args: list[Any]
    answer: asyncio.Future[Any]
    context: contextvars.Context


class Lane:
    """The way to one store.

    Args:
        client: The driver's client; never retries by itself.
        timeouts: How long to wait for an answer.
        sent: Told for each pipeline how many calls are in it.
    """

    def __init__(
        self, client: Client, timeouts: Timeouts, *, sent: Callable[[int], None] = lambda _: None
    ) -> None:
        self._client = client
        self._timeouts = timeouts
        self._sent = sent
        self._waiting: deque[_Call] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Future[Any]] = set()
        self._scheduled = False

    async def call(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """Run a script once and return its answer.

        Raises:
            StoreError: The store did not answer, or not with success.
        """
        loop = asyncio.get_running_loop()
        call = _Call(script, keys, args, loop.create_future(), contextvars.copy_context())
        self._waiting.append(call)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._depart)
        return await call.answer

    async def aclose(self) -> None:
        """Wait for what is under way; the timeouts bound it."""
        while under_way := self._under_way | self._late:
            await asyncio.wait(under_way)

    def _depart(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._under_way) < MAX_IN_FLIGHT:
            size = min(MAX_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            batch = [call for call in batch if not call.answer.done()]
            if batch:
                # In the context of its first call, whose trace it belongs to.
                task = asyncio.get_running_loop().create_task(
                    self._travel(batch), context=batch[0].context
                )
                self._under_way.add(task)
                task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._depart()

    async def _travel(self, batch: list[_Call]) -> None:
        try:
            missing = self._deliver(batch, await self._within(self._send(batch)))
            if missing:
                # The server was restarted, failed over or flushed since the scripts were loaded.
                # What it does not know it has not run, so these calls are safe to send again.
                await self._within(self._load(missing))
                self._deliver(missing, await self._within(self._send(missing)), last=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' to hear
            # Who waited behind a store that does not answer is not made to wait for it again.
            batch += self._waiting
            self._waiting.clear()
            for call in batch:
                if not call.answer.done():
                    call.answer.set_exception(translate(error))

    def _deliver(
        self, batch: list[_Call], answers: list[Any], *, last: bool = False
    ) -> list[_Call]:
        """Hand out answers and return the calls whose script the server did not know."""
        missing = []
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, NoScriptError) and not last:
                missing.append(call)
            elif call.answer.done():
                continue
            elif isinstance(answer, Exception):
                call.answer.set_exception(translate(answer))
            else:
                call.answer.set_result(answer)
        return missing

    async def _send(self, batch: list[_Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for call in batch:
            # Not `evalsha()`: redis-py's Cluster pipeline blocks the method, not the command.
            pipeline.execute_command(
                "EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args
            )
        self._sent(len(batch))
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            # Behind one name there may be another primary by now: look again next time.
            await self.disconnect()
        return answers

    async def _load(self, batch: list[_Call]) -> list[Any]:
        scripts = {call.script.sha: call.script.text for call in batch}
        return [await self._client.script_load(text) for text in scripts.values()]

    async def disconnect(self) -> None:
        """Close idle connections, so that the next call opens one to whoever answers then."""
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
        for _ in range(_GRACE_TURNS):
            if task.done():
                return task.result()
            # A busy loop may hear of the answer and of the timeout in the same turn. An answer that
            # has arrived is worth more than the clock, and costs only these turns to take up.
            await asyncio.sleep(0)
        # Not waited for: on Python 3.11 a cancellation can get lost in the driver's own waiting,
        # and then the call ends by the driver's longer timeout.
        task.cancel()
        self._late.add(task)
        task.add_done_callback(self._forget)
        raise StoreUnavailable(
            f"timeout: no answer within {self._timeouts.operation * 1000:g} ms", kind="timeout"
        )


_GRACE_TURNS = 8
