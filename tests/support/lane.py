"""A server that records each pipeline, and replies when the test lets it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from redis.exceptions import NoScriptError

from fleetlimit.stores.redis.batcher import CommandBatcher
from fleetlimit.stores.redis.client import Client, Timeouts
from fleetlimit.stores.redis.connection import ConnectionHolder
from fleetlimit.stores.redis.scripts import Script

ReplyTo = Callable[[tuple[Any, ...]], Any]
Heard = Callable[[list[Any] | Exception], None]


class FakeLine:
    """A connection to a `FakeServer`."""

    def __init__(self, server: "FakeServer") -> None:
        self.closed = False
        self._server = server
        self._waiting: list[Heard] = []

    def send(self, commands: Sequence[Sequence[Any]], heard: Heard) -> None:
        """Send a pipeline."""
        self._waiting.append(heard)
        self._server.receive(tuple(map(tuple, commands)), self._reply, heard)

    def _reply(self, heard: Heard, outcome: list[Any] | Exception) -> None:
        if heard in self._waiting:
            self._waiting.remove(heard)
            heard(outcome)

    def close(self, why: Exception | None = None) -> None:
        """Close the connection, and fail what has no reply."""
        self.closed = True
        waiting, self._waiting = self._waiting, []
        for heard in waiting:
            heard(why or ConnectionError("the connection was closed"))


class FakeServer:
    """A server that knows some scripts and replies with a script's first argument.

    It is the connection holder of a batcher, and its driver's client, in one.

    Args:
        held: Whether replies wait until `release`.
    """

    def __init__(self, *, held: bool = False) -> None:
        self.known: set[str] = set()
        self.loaded: list[str] = []
        self.sent: list[tuple[tuple[Any, ...], ...]] = []
        self.redirected: list[tuple[Any, ...]] = []
        self.answer: ReplyTo = lambda command: command[3]
        self.failures: deque[Exception] = deque()
        self.opened = 0
        self._held = held
        self._pending: list[Callable[[], None]] = []
        self._line: FakeLine | None = None

    @property
    def connection(self) -> FakeLine | None:
        """The connection, while there is one."""
        return None if self._line is None or self._line.closed else self._line

    async def open(self) -> FakeLine:
        """Connect."""
        if self.connection is None:
            self.opened += 1
            self._line = FakeLine(self)
        assert self._line is not None
        return self._line

    def close(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.close()

    def reset(self) -> None:
        """Drop a connection whose event loop has ended."""
        self._line = None

    def receive(
        self,
        commands: tuple[tuple[Any, ...], ...],
        reply: Callable[[Heard, list[Any] | Exception], None],
        heard: Heard,
    ) -> None:
        """Take a pipeline, and reply to it now or once the test lets it."""
        self.sent.append(commands)

        def answer() -> None:
            outcome = (
                self.failures.popleft() if self.failures else [self._one(each) for each in commands]
            )
            reply(heard, outcome)

        if self._held:
            self._pending.append(answer)
        else:
            asyncio.get_running_loop().call_soon(answer)

    def release(self) -> None:
        """Let replies arrive."""
        self._held = False
        pending, self._pending = self._pending, []
        for each in pending:
            asyncio.get_running_loop().call_soon(each)

    def _one(self, command: tuple[Any, ...]) -> Any:
        assert command[0] == "EVALSHA"
        if command[1] not in self.known:
            return NoScriptError("NOSCRIPT No matching script.")
        return self.answer(command)

    async def script_load(self, text: str) -> str:
        """Learn a script; in these tests its text is its own SHA."""
        self.loaded.append(text)
        self.known.add(text)
        return text

    async def execute_command(self, *command: Any) -> Any:
        """Run a command as the driver does, which follows redirections."""
        self.redirected.append(command)
        return command[3]

    @property
    def sizes(self) -> list[int]:
        """How many commands each pipeline had."""
        return [len(commands) for commands in self.sent]


SCRIPT, OTHER = Script("take", "text", "text"), Script("settle", "other", "other")


LONG_TIMEOUTS = Timeouts(connect=10, operation=10)


def batcher_for(
    server: FakeServer, timeouts: Timeouts = LONG_TIMEOUTS, **options: Any
) -> CommandBatcher:
    """Return a lane to a server that knows the first script."""
    server.known.add(SCRIPT.sha)
    return CommandBatcher(
        cast("ConnectionHolder", server), cast("Client", server), timeouts, **options
    )


def unchanged(answer: Any) -> Any:
    """Read an answer as it is."""
    return answer


def call(batcher: CommandBatcher, reply: Any, script: Script = SCRIPT) -> asyncio.Task[Any]:
    """Call a script that answers this."""
    return asyncio.ensure_future(batcher.call(script, [str(reply)], [], unchanged))


async def loop_turns(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)
