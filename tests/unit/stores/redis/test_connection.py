"""RedisConnection: replies in order, in any chunks; an error closes the connection."""

import asyncio
from typing import Any

import anyio
import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import NoScriptError

from fleetlimit.errors import StoreUnavailable
from fleetlimit.stores.redis.batcher import InFlightBatch
from fleetlimit.stores.redis.connection import ConnectionHolder, RedisConnection
from fleetlimit.stores.redis.errors import to_store_error
from fleetlimit.stores.redis.scripts import Script, ScriptCall, coalesce

PLAIN = Script("settle", "text", "sha")


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


def commands(*keys: str) -> tuple[list[ScriptCall], list[Any]]:
    loop = asyncio.get_running_loop()
    calls = [ScriptCall(PLAIN, [key], [], loop.create_future(), str) for key in keys]
    return calls, coalesce(calls, lambda _: 0)


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


@pytest.mark.parametrize("end", ["lost", "nonsense"])
async def test_closed_connection_fails_pending_pipelines(end: str) -> None:
    """A lost connection, or an invalid reply, fails every pending pipeline."""
    connection = RedisConnection(Connection())
    outcomes: list[Any] = []
    connection.send([("GET", "a")], outcomes.append)
    if end == "lost":
        connection.connection_lost(None)
    else:
        connection.data_received(b"nonsense\r\n")
    assert [type(each) for each in outcomes] == [Disconnected]
    assert connection.closed


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


async def test_batch_timeout_closes_the_connection() -> None:
    """A batch times out once, and later replies are ignored."""
    connection = RedisConnection(Connection())
    calls, evalsha = commands("a")
    outcomes: list[Any] = []
    done = asyncio.Event()

    def on_done(_: InFlightBatch, outcome: Any) -> None:
        outcomes.append(outcome)
        done.set()

    InFlightBatch(calls, evalsha, connection, 0.001, on_done)
    with anyio.fail_after(10):
        await done.wait()
    assert isinstance(outcomes[0], StoreUnavailable)
    assert outcomes[0].kind == "timeout"
    assert connection.closed
    connection.connection_lost(None)
    assert len(outcomes) == 1


async def test_batch_timeout_fails_the_batches_behind_it() -> None:
    """Batches behind a timeout on the same connection fail with the timeout too."""
    connection = RedisConnection(Connection())
    (first, evalsha), (second, other_evalsha) = commands("a"), commands("b")
    outcomes: dict[str, Any] = {}
    done = asyncio.Event()

    def on_done(batch: InFlightBatch, outcome: Any) -> None:
        outcomes[batch.batch[0].keys[0]] = outcome
        if len(outcomes) == 2:
            done.set()

    InFlightBatch(first, evalsha, connection, 0.001, on_done)
    InFlightBatch(second, other_evalsha, connection, 60, on_done)
    with anyio.fail_after(10):
        await done.wait()
    assert {key: to_store_error(outcome).kind for key, outcome in outcomes.items()} == {
        "a": "timeout",
        "b": "timeout",
    }


async def test_batch_is_done_with_its_replies() -> None:
    """The replies end a batch, and its timer."""
    connection = RedisConnection(Connection())
    calls, evalsha = commands("a")
    outcomes: list[Any] = []
    batch = InFlightBatch(
        calls, evalsha, connection, 0.001, lambda _, outcome: outcomes.append(outcome)
    )
    connection.data_received(b":1\r\n")
    assert (outcomes, batch.done) == ([[1]], True)
    await asyncio.sleep(0.01)
    assert outcomes == [[1]]
