"""One pipeline on its way over the wire: answered in time, or given up."""

import asyncio
from collections.abc import Callable
from typing import Any

from fleetlimit.core.errors import StoreUnavailable
from fleetlimit.stores.command import Call, Command
from fleetlimit.stores.wire import Line

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
