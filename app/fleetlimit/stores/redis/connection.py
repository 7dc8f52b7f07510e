"""The way of pipelines to one server, on a connection that the driver opens and then lets go.

The driver opens it because it knows addresses, sentinels, TLS and users. It is not asked for each
pipeline: its pool, its timeouts and its streams make half a dozen tasks of one, and take several
times as long as to pack what is sent and to read what comes back, which is all that is done here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
from redis.asyncio.connection import BaseParser  # type: ignore[attr-defined]  # not in __all__
from redis.exceptions import ConnectionError as Disconnected

_NOT_ENOUGH_DATA: Final = object()


OnReplies = Callable[[list[Any] | Exception], None]
"""Is told the answers, errors of the server among them, or why there are none."""


class ConnectionHolder:
    """The way to one server: one connection at a time, opened when there is none.

    Args:
        make: Makes a connection of the driver, not connected yet.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._opening = asyncio.Lock()
        self._connection: RedisConnection | None = None

    @property
    def connection(self) -> "RedisConnection | None":
        """The connection, while there is one."""
        line = self._connection
        return None if line is None or line.closed else line

    async def open(self) -> "RedisConnection":
        """Return the connection, opened if there is none.

        Raises:
            RedisError: There is nobody to connect to.
        """
        async with self._opening:
            line = self.connection
            if line is None:
                line = self._connection = RedisConnection(await self._connect())
            return line

    async def _connect(self) -> Any:
        connection = self._make()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def close(self) -> None:
        """Close the connection; what was sent and not answered is lost."""
        if self._connection is not None:
            self._connection.close()

    def reset(self) -> None:
        """Let go of a connection whose event loop has ended, and can close nothing any more."""
        self._connection = None
        self._opening = asyncio.Lock()


class RedisConnection(asyncio.Protocol):
    """One connection that the driver has opened, from then on without it.

    Args:
        connection: The driver's, which is of no use afterwards.
    """

    def __init__(self, connection: Any) -> None:
        self.closed = False
        # Kept, because a writer that nobody keeps closes what it writes to.
        self._writer, connection._writer = connection._writer, None  # noqa: SLF001 - it is ours now
        connection._reader = None  # noqa: SLF001 - as above
        self._reader = hiredis.Reader(
            replyError=BaseParser.parse_error, notEnoughData=_NOT_ENOUGH_DATA
        )
        self._pending: deque[tuple[int, list[Any], OnReplies]] = deque()
        self._writer.transport.set_protocol(self)

    def send(self, commands: Sequence[Sequence[Any]], on_replies: OnReplies) -> None:
        """Send commands.

        Args:
            commands: Each as its words.
            on_replies: Is told once what became of them.
        """
        self._pending.append((len(commands), [], on_replies))
        packed = [hiredis.pack_command(tuple(each)) for each in commands]
        self._writer.transport.write(b"".join(packed))

    def close(self, error: Exception | None = None) -> None:
        """Close it, and tell those who wait for an answer why there is none."""
        self.closed = True
        self._writer.transport.abort()
        waiting, self._pending = self._pending, deque()
        for _, _, heard in waiting:
            heard(error or Disconnected("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        """Hand out the answers that have come."""
        try:
            self._reader.feed(data)
            while self._pending and (answer := self._reader.gets()) is not _NOT_ENOUGH_DATA:
                self._on_reply(answer)
        except hiredis.ProtocolError:
            self.close()

    def _on_reply(self, reply: Any) -> None:
        count, answers, heard = self._pending[0]
        answers.append(reply)
        if len(answers) == count:
            self._pending.popleft()
            heard(answers)

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell those who wait for an answer."""
        self.close()
