"""Sketch of the cheapest store call: one `EVALSHA` on one connection, without pool or timeouts."""

import asyncio
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import hiredis

from contenders.depending import Check, limited
from contenders.export import LIMIT, STORE
from contenders.floor import SCRIPT


class Connection(asyncio.Protocol):
    """Connection to the store, whose replies have the order of the commands."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: Any = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the commands without a reply."""
        for future in self._waiting:
            future.set_exception(ConnectionError(f"the store closed the connection: {error}"))

    def send(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command and return the future of its reply."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(hiredis.pack_command(command))
        return future

    def data_received(self, data: bytes) -> None:
        """Pass each reply to the command that has waited longest."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)


async def open_check() -> Check:
    """Return a check that counts requests in a fixed window, by the script of `floor`."""
    # The query has options of the drivers.
    address = urlsplit(STORE)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, address.hostname or "127.0.0.1", address.port or 6379
    )
    sha = await connection.send("SCRIPT", "LOAD", SCRIPT)

    async def check(caller: str) -> bool:
        count = await connection.send("EVALSHA", sha, 1, f"raw:{caller}")
        return int(count) <= LIMIT

    return check


app = limited(open_check)
