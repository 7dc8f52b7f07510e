"""Recovery: what a batcher does about a server that failed, or that redirects its calls."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.errors import timeout_error, to_store_error
from fleetlimit.stores.redis.scripts import ScriptCall, coalesce


class CommandClient(Protocol):
    """Client that runs single commands, outside the batcher."""

    async def execute_command(self, *command: Any) -> Any:
        """Run a command and return its reply."""
        ...


class Recovery:
    """Looks up the primary again, and sends redirected calls to the nodes that they belong to.

    Args:
        client: Client for redirected calls, which follows redirections.
        timeouts: Timeouts of calls and of opening a connection.
        slot_of: Maps a key to its Cluster slot; None without a Cluster.
        relocate: Looks up the primary again; None if it cannot move.
    """

    def __init__(
        self,
        client: CommandClient,
        timeouts: Timeouts,
        slot_of: Callable[[str], int] | None,
        relocate: Callable[[], Awaitable[Any]] | None,
    ) -> None:
        self._client = client
        self._timeouts = timeouts
        self._slot_of = slot_of
        self._relocate = relocate
        self._relocating: asyncio.Task[None] | None = None
        self.unfinished: set[asyncio.Future[Any]] = set()
        """Work in the background, some of it cancelled and not yet ended."""

    def reset(self) -> None:
        """Forget the work of an event loop that has ended."""
        self._relocating = None
        self.unfinished.clear()

    def relocate(self) -> None:
        """Start to look up the primary again, unless this is running."""
        if self._relocate is not None and (self._relocating is None or self._relocating.done()):
            self._relocating = asyncio.ensure_future(self._finish_relocation(self._relocate()))
            self.unfinished.add(self._relocating)
            self._relocating.add_done_callback(self.unfinished.discard)

    async def _finish_relocation(self, relocation: Awaitable[Any]) -> None:
        with contextlib.suppress(Exception):  # the next failed call relocates again
            await self._with_timeout(relocation, self._timeouts.opening)

    async def redirect(self, moved: list[ScriptCall]) -> None:
        """Send calls through the client, and complete them.

        Queued calls do not fail with them: another server failed than that of the batcher.
        """
        try:
            # One timeout for all: a call must not wait for the timeouts of the calls before it.
            await self._with_timeout(self._send_redirected(moved), self._timeouts.operation)
        except Exception as error:  # noqa: BLE001 - the callers receive any error
            failure = to_store_error(error)
            for call in moved:
                call.fail(failure)
            self.relocate()

    async def _send_redirected(self, moved: list[ScriptCall]) -> None:
        for command in coalesce(moved, self._slot_of):
            try:
                reply = await self._client.execute_command(*command.args())
            except Exception as error:  # noqa: BLE001 - as above
                # One object for all its calls: the circuit breaker counts it as one failure.
                reply = to_store_error(error)
                self.relocate()
            for call, part in command.split(reply):
                if isinstance(part, Exception):
                    call.fail(part)
                else:
                    call.complete(part)

    async def _with_timeout(self, work: Awaitable[Any], seconds: float) -> Any:
        task = asyncio.ensure_future(work)
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        # The cancelled task is not awaited: on Python 3.11 redis-py's own timeouts can swallow the
        # cancellation, and the call then ends at redis-py's longer timeout.
        task.cancel()
        self.unfinished.add(task)
        task.add_done_callback(self._discard)
        raise timeout_error(seconds)

    def _discard(self, task: asyncio.Future[Any]) -> None:
        self.unfinished.discard(task)
        if not task.cancelled():
            # Mark the exception as retrieved: its caller has already received the timeout.
            task.exception()
