"""Server that speaks Redis until a test makes it reply with something else.

An honest reply to `acquire.lua` has the number in the bucket's key as `remaining`, so that a test
recognises a reply that reached another check.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis

from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import Algorithm
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.scripts import load_script
from fleetlimit.stores.redis.store import RedisStore
from support.stores import charge, quota_of

FIRST_NUMBER: Final = 1_000_007
"""Numbers of buckets start here: no reply that a test invents has such a number."""
STORE_NOW_US: Final = 1_700_000_000_000_000

_ACQUIRE_SHA: Final = load_script("acquire", batchable=True).sha
_HEARTBEAT_SHA: Final = load_script("heartbeat").sha
_QUOTA: Final = quota_of(Algorithm.TOKEN_BUCKET, 2 * FIRST_NUMBER)


@dataclass(slots=True)
class HostileStore:
    """The server.

    Args:
        replies: Replies to the next commands; honest ones follow. None ends the
            connection in place of a reply.
        split_at: Number of bytes after which a reply is split into two writes.
        in_handshake: Whether the replies are for the handshake, too.
        topology: Reply to CLUSTER SLOTS.
    """

    url: str = ""
    replies: list[bytes | None] = field(default_factory=list)
    split_at: int = 0
    in_handshake: bool = False
    topology: bytes = b"+OK\r\n"
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def address(self) -> list[bytes | int]:
        """The host and the port, as in a reply to CLUSTER SLOTS."""
        host, _, port = self.url.partition("//")[2].partition("?")[0].partition(":")
        return [host.encode(), int(port)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reply to the commands of one connection."""
        self._writers.append(writer)
        commands = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                commands.feed(data)
                while command := commands.gets():
                    reply = self._reply_to(command)
                    if reply is None:
                        writer.close()
                        return
                    writer.write(reply[: self.split_at])
                    await writer.drain()
                    writer.write(reply[self.split_at :])
                    await writer.drain()

    def _reply_to(self, command: Sequence[bytes]) -> bytes | None:
        if self.replies and (self.in_handshake or command[0] in {b"EVALSHA", b"SCRIPT"}):
            return self.replies.pop(0)
        return self.topology if command[0] == b"CLUSTER" else _honest(command)

    async def aclose(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()
        await asyncio.gather(
            *(writer.wait_closed() for writer in self._writers), return_exceptions=True
        )


def _honest(command: Sequence[bytes]) -> bytes:
    """Return the encoded reply to a command."""
    name = command[0]
    if name == b"HELLO":
        return b"%1\r\n$5\r\nproto\r\n:3\r\n"
    if name == b"SCRIPT":
        return b"+loaded\r\n"
    if name != b"EVALSHA":
        return b"+OK\r\n"
    if command[1] == _ACQUIRE_SHA.encode():
        numbers = [int(key.rpartition(b":")[2]) for key in command[3 : 3 + int(command[2])]]
        fields = [each for number in numbers for each in (1, 1, number, 0, 0, 1)]
        return encode([STORE_NOW_US, *fields])
    if command[1] == _HEARTBEAT_SHA.encode():
        return encode([1, b"epoch", b"server"])
    return encode(STORE_NOW_US)


def encode(reply: Any) -> bytes:
    """Return the encoding of an integer, a byte string or a list."""
    if isinstance(reply, list):
        return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b":%d\r\n" % reply


@contextlib.asynccontextmanager
async def hostile_store(
    replies: Sequence[bytes | None] = (), *, split_at: int = 0
) -> AsyncIterator[HostileStore]:
    """Serve these replies."""
    hostile = HostileStore(replies=list(replies), split_at=split_at)
    listening = await asyncio.start_server(hostile.serve, "127.0.0.1", 0)
    hostile.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}?protocol=3"
    try:
        yield hostile
    finally:
        listening.close()
        await hostile.aclose()


def store_of(hostile: HostileStore, timeouts: Timeouts) -> RedisStore:
    """Return an unopened store on this server."""
    return RedisStore(hostile.url, KeyScheme(), timeouts=timeouts)


async def acquire(store: RedisStore, number: int) -> AcquireResult:
    """Acquire a unit of the bucket with this number."""
    return await store.acquire([charge(_QUOTA, key=f"fl2:bucket:{FIRST_NUMBER + number}")])
