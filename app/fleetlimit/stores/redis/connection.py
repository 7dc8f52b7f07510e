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

_NOTHING: Final = object()


Heard = Callable[[list[Any] | Exception], None]
"""Is told the answers, errors of the server among them, or why there are none."""


class Wire:
    """The way to one server: one connection at a time, opened when there is none.

    Args:
        make: Makes a connection of the driver, not connected yet.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._opening = asyncio.Lock()
        self._line: Line | None = None

    @property
    def line(self) -> "Line | None":
        """The connection, while there is one."""
        line = self._line
        return None if line is None or line.closed else line

    async def open(self) -> "Line":
        """Return the connection, opened if there is none.

        Raises:
            RedisError: There is nobody to connect to.
        """
        async with self._opening:
            line = self.line
            if line is None:
                line = self._line = Line(await self._connect())
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
        if self._line is not None:
            self._line.close()

    def forget(self) -> None:
        """Let go of a connection whose event loop has ended, and can close nothing any more."""
        self._line = None
        self._opening = asyncio.Lock()


class Line(asyncio.Protocol):
    """One connection that the driver has opened, from then on without it.

    Args:
        connection: The driver's, which is of no use afterwards.
    """

    def __init__(self, connection: Any) -> None:
        self.closed = False
        # Kept, because a writer that nobody keeps closes what it writes to.
        self._writer, connection._writer = connection._writer, None  # noqa: SLF001 - it is ours now
        connection._reader = None  # noqa: SLF001 - as above
        self._answers = hiredis.Reader(replyError=BaseParser.parse_error, notEnoughData=_NOTHING)
        self._waiting: deque[tuple[int, list[Any], Heard]] = deque()
        self._writer.transport.set_protocol(self)

    def ask(self, commands: Sequence[Sequence[Any]], heard: Heard) -> None:
        """Send commands.

        Args:
            commands: Each as its words.
            heard: Is told once what became of them.
        """
        self._waiting.append((len(commands), [], heard))
        packed = [hiredis.pack_command(tuple(each)) for each in commands]
        self._writer.transport.write(b"".join(packed))

    def close(self, why: Exception | None = None) -> None:
        """Close it, and tell those who wait for an answer why there is none."""
        self.closed = True
        self._writer.transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for _, _, heard in waiting:
            heard(why or Disconnected("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        """Hand out the answers that have come."""
        try:
            self._answers.feed(data)
            while self._waiting and (answer := self._answers.gets()) is not _NOTHING:
                self._take(answer)
        except hiredis.ProtocolError:
            self.close()

    def _take(self, answer: Any) -> None:
        count, answers, heard = self._waiting[0]
        answers.append(answer)
        if len(answers) == count:
            self._waiting.popleft()
            heard(answers)

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell those who wait for an answer."""
        self.close()
