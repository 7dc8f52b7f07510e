"""Connection of the contender `raw`: replies find their commands."""

import asyncio
from typing import Any

import hiredis
import pytest

from contenders.raw import Connection


class Transport(asyncio.Transport):
    """Transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        """Keep the data."""
        self.written += data


@pytest.fixture
def transport() -> Transport:
    """Return a transport without a socket."""
    return Transport()


@pytest.fixture
def connection(transport: Transport) -> Connection:
    """Return a connection that uses the transport."""
    found = Connection()
    found.connection_made(transport)
    return found


async def test_send_writes_the_command_at_once(
    connection: Connection, transport: Transport
) -> None:
    """A command is an array of bulk strings."""
    connection.send("GET", "a")
    assert transport.written == b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"


async def test_replies_have_the_order_of_the_commands(connection: Connection) -> None:
    """Replies in one read or in pieces go to the commands, first to last."""
    replies = [connection.send("INCR", "a") for _ in range(3)]
    connection.data_received(b":1\r\n:2\r")
    assert [each.done() for each in replies] == [True, False, False]
    connection.data_received(b"\n:3\r\n")
    assert [await each for each in replies] == [1, 2, 3]


async def test_error_of_the_store_is_raised_by_its_command_alone(connection: Connection) -> None:
    """The command after a failed one has its own reply."""
    failed, succeeded = connection.send("EVALSHA", "unknown", 0), connection.send("PING")
    connection.data_received(b"-NOSCRIPT No matching script\r\n+PONG\r\n")
    with pytest.raises(hiredis.ReplyError, match="NOSCRIPT"):
        await failed
    assert await succeeded == b"PONG"


async def test_lost_connection_fails_the_commands_without_a_reply(connection: Connection) -> None:
    """A measurement ends with an error instead of waiting for ever."""
    answered, waiting = connection.send("PING"), connection.send("PING")
    connection.data_received(b"+PONG\r\n")
    connection.connection_lost(None)
    assert await answered == b"PONG"
    with pytest.raises(ConnectionError, match="the store closed the connection"):
        await waiting
