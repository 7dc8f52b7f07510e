"""RedisConnection: replies in order, in any chunks; an error closes the connection."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, NoScriptError

from fleetlimit.stores.redis.connection import ConnectionHolder, RedisConnection


class Transport(asyncio.Transport):
    """Transport that records written data."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what is received to this one from now on."""
        self.protocol = protocol

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written.append(data)

    def abort(self) -> None:
        """Count it."""
        self.aborted += 1


class Connection:
    """Fake connection of redis-py."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.transport = Transport()
        self.disconnected = 0
        self._writer: Any = self
        self._reader: Any = self
        self._failure = failure

    async def connect(self) -> None:
        """Connect."""
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure

    async def disconnect(self, *, nowait: bool) -> None:
        """Count it."""
        assert nowait
        self.disconnected += 1


def holder_for(*connections: Connection) -> ConnectionHolder:
    remaining = list(connections)
    return ConnectionHolder(lambda: remaining.pop(0))


async def test_replies_arrive_in_order_in_any_chunks() -> None:
    """Two pipelines get their replies from three chunks; a server error is a reply."""
    driver_connection = Connection()
    connection = RedisConnection(driver_connection)
    outcomes: list[Any] = []
    connection.send([("GET", "a"), ("GET", "b")], outcomes.append)
    connection.send([("GET", "c")], outcomes.append)
    for piece in (b":1\r\n-NOSCRI", b"PT no\r\n$1\r", b"\nx\r\n"):
        connection.data_received(piece)
    (one, error), two = outcomes
    assert (one, two) == (1, [b"x"])
    assert isinstance(error, NoScriptError)
    assert driver_connection.transport.written[1] == b"*2\r\n$3\r\nGET\r\n$1\r\nc\r\n"


# The last but one raises TypeError in hiredis, and the last one ValueError in redis-py.
@pytest.mark.parametrize("end", [b"", b"nonsense\r\n", b"%1\r\n*0\r\n:1\r\n", b"-MOVED 1\r\n"])
async def test_closed_connection_fails_pending_pipelines(end: bytes) -> None:
    """A lost connection, or an invalid reply, fails every pending pipeline."""
    connection = RedisConnection(Connection())
    outcomes: list[Any] = []
    connection.send([("GET", "a")], outcomes.append)
    if end:
        connection.data_received(end)
    else:
        connection.connection_lost(None)
    assert [type(each) for each in outcomes] == [Disconnected]
    assert connection.closed


async def test_malformed_error_in_a_nested_reply_is_a_value() -> None:
    """Hiredis would end the process if the function that makes exceptions raised one."""
    connection = RedisConnection(Connection())
    outcomes: list[Any] = []
    connection.send([("GET", "a")], outcomes.append)
    connection.data_received(b"*2\r\n:1\r\n*1\r\n-MOVED 1\r\n")
    ((reply,),) = outcomes
    assert reply[0] == 1
    assert isinstance(reply[1][0], InvalidResponse)


@pytest.mark.parametrize("argument", ["\ud800", object()], ids=["surrogate", "object"])
async def test_pipeline_that_cannot_be_sent_fails_at_once(argument: object) -> None:
    """It fails, and the next reply is the one of the next pipeline."""
    driver_connection = Connection()
    connection = RedisConnection(driver_connection)
    failed: list[Any] = []
    outcomes: list[Any] = []
    connection.send([("GET", "a"), ("GET", argument)], failed.append)
    assert [type(each) for each in failed] in ([UnicodeEncodeError], [TypeError])
    assert driver_connection.transport.written == []
    connection.send([("GET", "b")], outcomes.append)
    connection.data_received(b":1\r\n")
    assert (outcomes, connection.closed) == ([[1]], False)


async def test_closed_connection_fails_a_pipeline_at_once() -> None:
    """A pipeline that is sent on a closed connection fails, because no timeout would end it."""
    connection = RedisConnection(Connection())
    connection.close()
    outcomes: list[Any] = []
    connection.send([("GET", "a")], outcomes.append)
    assert [type(each) for each in outcomes] == [Disconnected]


async def test_holder_opens_one_connection_and_replaces_it() -> None:
    """Concurrent callers share the connection attempt."""
    first, second = Connection(), Connection()
    holder = holder_for(first, second)
    holder.close()
    assert holder.connection is None
    one, same = await asyncio.gather(holder.open(), holder.open())
    assert one is same is holder.connection
    holder.close()
    assert (holder.connection, first.transport.aborted) == (None, 1)
    assert await holder.open() is not one
    # A late event of the old connection does not affect the new one.
    one.connection_lost(None)
    assert holder.connection is not None


async def test_failed_connection_is_disconnected() -> None:
    """Nothing is left open, and the next attempt starts again."""
    bad = Connection(Disconnected("refused"))
    holder = holder_for(bad, Connection())
    with pytest.raises(Disconnected, match="refused"):
        await holder.open()
    assert bad.disconnected == 1
    assert not (await holder.open()).closed


async def test_lost_connection_calls_back_once() -> None:
    """A connection that this side closed is not lost."""
    lost: list[str] = []
    for name, closes in (("closed", True), ("lost", False)):
        connection = RedisConnection(Connection(), lambda name=name: lost.append(name))  # type: ignore[misc]  # a default binds the name
        if closes:
            connection.close()
        connection.connection_lost(None)
        connection.connection_lost(None)
    assert lost == ["lost"]


@pytest.mark.parametrize("stray", [b":1\r\n", b"+OK\r\n", b"-ERR\r\n", b"*1\r\n:1\r\n"])
@pytest.mark.parametrize("after", [b"", b":7\r\n"], ids=["idle", "after a reply"])
async def test_reply_to_no_command_ends_the_connection(stray: bytes, after: bytes) -> None:
    """A stray reply would shift later replies to the wrong calls."""
    lost: list[str] = []
    connection = RedisConnection(Connection(), lambda: lost.append("lost"))
    outcomes: list[Any] = []
    if after:
        connection.send([("GET", "a")], outcomes.append)
    connection.data_received(after + stray)
    assert (connection.closed, lost) == (True, ["lost"])
    assert outcomes == ([[7]] if after else [])


async def test_push_is_no_reply() -> None:
    """A RESP3 push, such as an invalidation, does not shift the replies."""
    connection = RedisConnection(Connection())
    outcomes: list[Any] = []
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n"
    connection.data_received(push)
    connection.send([("GET", "a"), ("GET", "b")], outcomes.append)
    connection.data_received(push + b":1\r\n" + push + b":2\r\n" + push)
    assert (outcomes, connection.closed) == ([[1, 2]], False)
