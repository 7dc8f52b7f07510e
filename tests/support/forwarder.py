"""TCP address that stays while the server behind it changes, as the one of a Service does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Address:
    """Port of 127.0.0.1 whose new connections lead to the port `target`."""

    port: int
    target: int

    def move(self, target: int) -> None:
        """Lead new connections to another port."""
        self.target = target


@contextlib.asynccontextmanager
async def address_of(
    target: int, rewrite: Callable[[bytes], bytes] = lambda reply: reply
) -> AsyncIterator[Address]:
    """Forward connections to a port; at the end, refuse and close them.

    Args:
        target: The first port.
        rewrite: Changes the bytes that come from the server.
    """
    tasks: set[asyncio.Task[None] | None] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", address.target)
        try:
            await asyncio.gather(
                _copy(reader, server_writer, lambda request: request),
                _copy(server_reader, writer, rewrite),
            )
        finally:
            writer.close()
            server_writer.close()

    listening = await asyncio.start_server(forward, "127.0.0.1", 0)
    address = Address(listening.sockets[0].getsockname()[1], target)
    try:
        yield address
    finally:
        listening.close()
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rewrite: Callable[[bytes], bytes]
) -> None:
    """Copy bytes until either side ends."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(rewrite(data))
            await writer.drain()
    writer.close()
