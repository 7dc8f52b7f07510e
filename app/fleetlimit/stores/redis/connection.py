"""Pipelining connection to one server: opened by redis-py, then used as an `asyncio.Protocol`.

redis-py opens it, because it implements addresses, Sentinel, TLS and authentication. Pipelines do
not go through redis-py: its pool, timeouts and streams create half a dozen tasks for each pipeline
and take several times as long as packing the commands and parsing the replies.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import hiredis
from redis.asyncio.connection import BaseParser  # type: ignore[attr-defined]  # not in __all__
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse

_NOT_ENOUGH_DATA: Final = object()


OnReplies = Callable[[list[Any] | Exception], None]
"""Callback with the replies of a pipeline (server errors included), or with an exception."""


_PendingPipeline = tuple[int, OnReplies, list[Any]]
"""Number of commands of a pipeline that was sent, its callback, and the replies that have arrived.

A tuple, because one is made for each check of a pod that is not busy."""


class Connection(Protocol):
    """Connection that sends pipelines."""

    closed: bool
    """Whether the connection was closed, by either side."""

    def send(self, commands: Sequence[tuple[Any, ...]], on_replies: OnReplies, /) -> None:
        """Send a pipeline; see `RedisConnection`."""
        ...

    def close(self, error: Exception | None = None, /) -> None:
        """Close the connection, and fail pipelines without replies with `error`."""
        ...


class Connections(Protocol):
    """Holder of the one connection to a server."""

    on_lost: Callable[[], None] | None
    """Callback when the server or the network ended the connection."""

    @property
    def connection(self) -> Connection | None:
        """The open connection, or None."""
        ...

    async def open(self) -> Connection:
        """Return the connection, opening one if needed."""
        ...

    def close(self) -> None:
        """Close the connection; pipelines without replies fail."""
        ...

    def reset(self) -> None:
        """Drop a connection of a closed event loop, on which `close` would fail."""
        ...


class ConnectionHolder:
    """Holder of the one connection to a server, which it opens on demand.

    Args:
        make: Returns an unconnected connection of redis-py.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.on_lost: Callable[[], None] | None = None
        """Callback when the server or the network ended the connection."""
        self._make = make
        self._opening = asyncio.Lock()
        self._connection: RedisConnection | None = None

    @property
    def connection(self) -> "RedisConnection | None":
        """The open connection, or None."""
        connection = self._connection
        return None if connection is None or connection.closed else connection

    async def open(self) -> "RedisConnection":
        """Return the connection, opening one if needed.

        Raises:
            RedisError: The server does not accept the connection.
        """
        async with self._opening:
            connection = self.connection
            if connection is None:
                connection = self._connection = RedisConnection(await self._connect(), self.on_lost)
            return connection

    async def _connect(self) -> Any:
        connection = self._make()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def close(self) -> None:
        """Close the connection; pipelines without replies fail."""
        if self._connection is not None:
            self._connection.close()

    def reset(self) -> None:
        """Drop a connection of a closed event loop, on which `close` would fail."""
        self._connection = None
        self._opening = asyncio.Lock()


class RedisConnection(asyncio.Protocol):
    """Connection that takes over the transport of redis-py's connection.

    Args:
        connection: An open connection of redis-py; it must not be used afterwards.
        on_lost: Callback when the server or the network ended the connection.
    """

    def __init__(self, connection: Any, on_lost: Callable[[], None] | None = None) -> None:
        self.closed = False
        self._on_lost = on_lost
        # The reference is needed: a StreamWriter closes its transport when it is collected.
        self._writer, connection._writer = connection._writer, None  # noqa: SLF001 - taken over
        connection._reader = None  # noqa: SLF001 - as above
        self._reader = hiredis.Reader(replyError=_parse_error, notEnoughData=_NOT_ENOUGH_DATA)
        self._gets = self._reader.gets
        self._pending: deque[_PendingPipeline] = deque()
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    def send(self, commands: Sequence[tuple[Any, ...]], on_replies: OnReplies) -> None:
        """Send a pipeline.

        Args:
            commands: The commands, each with its arguments.
            on_replies: Callback, called once; at once if the connection is closed, or if an
                argument cannot be sent (`TypeError`, or `ValueError` for text that is no UTF-8).
        """
        if self.closed:
            on_replies(Disconnected("the connection was closed"))
            return
        try:
            if len(commands) == 1:
                packed = hiredis.pack_command(commands[0])
            else:
                packed = b"".join(map(hiredis.pack_command, commands))
        except (TypeError, ValueError) as error:
            on_replies(error)
            return
        self._pending.append((len(commands), on_replies, []))
        self._transport.write(packed)

    def close(self, error: Exception | None = None) -> None:
        """Close the connection, and fail pipelines without replies with `error`."""
        self.closed = True
        self._transport.abort()
        pending, self._pending = self._pending, deque()
        for _, on_replies, _ in pending:
            on_replies(error or Disconnected("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        """Parse replies, and complete pipelines."""
        self._reader.feed(data)
        while not self.closed:
            try:
                reply = self._gets()
            except Exception as error:  # noqa: BLE001 - TypeError for a map with a list as a key
                reply = InvalidResponse(str(error))
            if reply is _NOT_ENOUGH_DATA:
                return
            # The replies of most scripts are lists, for which these are no questions.
            if type(reply) is not list:
                if isinstance(reply, InvalidResponse):
                    self._end(Disconnected(f"the server sent an invalid reply: {reply}"))
                    return
                if isinstance(reply, hiredis.PushNotification):
                    continue
            if not self._pending:
                # A reply to no command: later replies would reach the wrong calls.
                self._end()
                return
            commands, on_replies, replies = self._pending[0]
            replies.append(reply)
            if len(replies) == commands:
                self._pending.popleft()
                on_replies(replies)

    def connection_lost(self, _error: Exception | None) -> None:
        """Fail pipelines without replies."""
        if not self.closed:
            self._end()

    def _end(self, error: Exception | None = None) -> None:
        """Close the connection because of the server or the network."""
        self.close(error)
        if self._on_lost is not None:
            self._on_lost()


def _parse_error(text: str) -> Exception:
    """Return the exception of an error reply; `InvalidResponse` for a malformed one.

    redis-py raises ValueError for `-MOVED 1`. If this function raised within a nested reply,
    hiredis 3.5 would end the process with a segmentation fault.
    """
    try:
        error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # driver
    except ValueError as reason:
        return InvalidResponse(f"{text!r:.100}: {reason}")
    return error
