"""A driver's client that records what is sent, and answers when the test says."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from redis.exceptions import NoScriptError

from fleetlimit.stores.redis.batcher import Lane
from fleetlimit.stores.redis.client import Client, Timeouts
from fleetlimit.stores.redis.scripts import Script

Answer = Callable[[tuple[Any, ...]], Any]


class Sent:
    """One pipeline: its commands, each as its arguments after the script's name."""

    def __init__(self, client: "FakeClient") -> None:
        self.commands: list[tuple[Any, ...]] = []
        self._client = client

    def execute_command(self, *command: Any) -> None:
        """Add a command."""
        self.commands.append(command)

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        """Answer all commands, once the test lets it."""
        assert not raise_on_error
        return await self._client.answered(self)


class FakeClient:
    """A server that knows some scripts and answers a script's first argument.

    Args:
        held: Whether answers wait until `release`.
    """

    def __init__(self, *, held: bool = False) -> None:
        self.known: set[str] = set()
        self.loaded: list[str] = []
        self.sent: list[Sent] = []
        self.answer: Answer = lambda command: command[3]
        self.connection_pool: Any = None
        self._gate = asyncio.Event()
        self.failures: deque[BaseException] = deque()
        if not held:
            self._gate.set()

    def pipeline(self, *, transaction: bool) -> Sent:
        """Begin a pipeline."""
        assert not transaction
        return Sent(self)

    def release(self) -> None:
        """Let answers arrive."""
        self._gate.set()

    async def answered(self, sent: Sent) -> list[Any]:
        """Answer a pipeline."""
        self.sent.append(sent)
        await self._gate.wait()
        if self.failures:
            raise self.failures.popleft()
        return [self._one(command) for command in sent.commands]

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

    @property
    def sizes(self) -> list[int]:
        """How many commands each pipeline had."""
        return [len(sent.commands) for sent in self.sent]


SCRIPT, OTHER = Script("take", "text", "text"), Script("settle", "other", "other")


PATIENT = Timeouts(connect=10, operation=10)


def lane_to(client: FakeClient, timeouts: Timeouts = PATIENT) -> Lane:
    """Return a lane to a server that knows the first script."""
    client.known.add(SCRIPT.sha)
    return Lane(cast("Client", client), timeouts)


def same(answer: Any) -> Any:
    """Read an answer as it is."""
    return answer


def call(lane: Lane, answer: Any, script: Script = SCRIPT) -> asyncio.Task[Any]:
    """Call a script that answers this."""
    return asyncio.ensure_future(lane.call(script, [str(answer)], [], same))


async def turns(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)
