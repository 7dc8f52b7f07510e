"""Fake server for a batcher: records each pipeline, and replies when the test allows it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.stores.redis.batcher import CommandBatcher
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.connection import OnReplies
from fleetlimit.stores.redis.scripts import Script
from support.stores import LONG_TIMEOUTS

ReplyTo = Callable[[tuple[Any, ...]], Any]


class FakeConnection:
    """A connection to a `FakeServer`."""

    def __init__(self, server: "FakeServer") -> None:
        self.closed = False
        self._server = server
        self._pending: list[OnReplies] = []

    def send(self, commands: Sequence[Sequence[Any]], on_replies: OnReplies) -> None:
        """Send a pipeline."""
        self._pending.append(on_replies)
        self._server.receive(tuple(map(tuple, commands)), self._reply, on_replies)

    def _reply(self, on_replies: OnReplies, outcome: list[Any] | Exception) -> None:
        if on_replies in self._pending:
            self._pending.remove(on_replies)
            on_replies(outcome)

    def close(self, why: Exception | None = None) -> None:
        """Close the connection, and fail every pipeline without replies."""
        self.closed = True
        waiting, self._pending = self._pending, []
        for on_replies in waiting:
            on_replies(why or ConnectionError("the connection was closed"))


class FakeServer:
    """A server that knows some scripts and replies with a script's first argument.

    It is the connection holder of a batcher, and its driver's client, in one.

    Args:
        held: Whether replies wait until `release`.
    """

    def __init__(self, *, held: bool = False) -> None:
        self.known_scripts: set[str] = set()
        self.loaded: list[str] = []
        self.pipelines: list[tuple[tuple[Any, ...], ...]] = []
        self.redirected: list[tuple[Any, ...]] = []
        self.reply_to: ReplyTo = lambda command: command[3]
        self.failures: deque[Exception] = deque()
        self.opened = 0
        self.on_lost: Callable[[], None] | None = None
        self._held = held
        self._pending: list[Callable[[], None]] = []
        self._connection: FakeConnection | None = None

    @property
    def connection(self) -> FakeConnection | None:
        """The connection, while there is one."""
        return None if self._connection is None or self._connection.closed else self._connection

    async def open(self) -> FakeConnection:
        """Connect if there is no connection."""
        if self.connection is None:
            self.opened += 1
            self._connection = FakeConnection(self)
        assert self._connection is not None
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def reset(self) -> None:
        """Drop a connection whose event loop has ended."""
        self._connection = None

    def receive(
        self,
        commands: tuple[tuple[Any, ...], ...],
        reply: Callable[[OnReplies, list[Any] | Exception], None],
        on_replies: OnReplies,
    ) -> None:
        """Receive a pipeline, and reply now or at `release`."""
        self.pipelines.append(commands)

        def deliver() -> None:
            outcome = (
                self.failures.popleft() if self.failures else [self._one(each) for each in commands]
            )
            reply(on_replies, outcome)

        if self._held:
            self._pending.append(deliver)
        else:
            asyncio.get_running_loop().call_soon(deliver)

    def hold(self) -> None:
        """Hold the replies to later pipelines until `release`."""
        self._held = True

    def release(self) -> None:
        """Send all held replies, and later ones at once."""
        self._held = False
        pending, self._pending = self._pending, []
        for each in pending:
            asyncio.get_running_loop().call_soon(each)

    def _one(self, command: tuple[Any, ...]) -> Any:
        if command[:2] == ("SCRIPT", "LOAD"):
            return self.load(command[2])
        assert command[0] == "EVALSHA"
        if command[1] not in self.known_scripts:
            return NoScriptError("NOSCRIPT No matching script.")
        return self.reply_to(command)

    def load(self, text: str) -> str:
        """Load a script; in these tests its text is its own SHA."""
        self.loaded.append(text)
        self.known_scripts.add(text)
        return text

    async def execute_command(self, *command: Any) -> Any:
        """Run a command as the driver does, following redirections."""
        self.redirected.append(command)
        return command[3]

    @property
    def sizes(self) -> list[int]:
        """Number of commands of each pipeline."""
        return [len(commands) for commands in self.pipelines]


SCRIPT, OTHER = Script("acquire", "text", "text"), Script("adjust", "other", "other")


def batcher_for(
    server: FakeServer, timeouts: Timeouts = LONG_TIMEOUTS, **options: Any
) -> CommandBatcher:
    """Return a batcher for a server that knows the first script."""
    server.known_scripts.add(SCRIPT.sha)
    own_loop = OwnLoop()
    batcher = CommandBatcher(server, server, timeouts, own_loop, **options)
    own_loop.on_ended = batcher.reset
    return batcher


def unchanged(reply: Any) -> Any:
    """Decode a reply to itself."""
    return reply


def call(batcher: CommandBatcher, reply: Any, script: Script = SCRIPT) -> asyncio.Task[Any]:
    """Call a script whose reply is `reply`."""
    return asyncio.ensure_future(batcher.call(script, [str(reply)], [], unchanged))


async def loop_turns(count: int = 5) -> None:
    """Run the event loop for a number of iterations."""
    for _ in range(count):
        await asyncio.sleep(0)
