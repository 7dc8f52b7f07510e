"""Answers come in the order of the questions, in whatever pieces, or the connection is left."""

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
    """Keeps what is written."""

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
    """A driver's connection, opened to nobody."""

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


def wire_to(*connections: Connection) -> ConnectionHolder:
    following = list(connections)
    return ConnectionHolder(lambda: following.pop(0))


def commands(*keys: str) -> tuple[list[ScriptCall], list[Any]]:
    loop = asyncio.get_running_loop()
    calls = [ScriptCall(PLAIN, [key], [], loop.create_future(), str) for key in keys]
    return calls, coalesce(calls, lambda _: 0)


async def test_answers_are_told_in_order_whatever_the_pieces() -> None:
    """Two questions are answered in three pieces; an error of the server is an answer."""
    connection = Connection()
    line = RedisConnection(connection)
    heard: list[Any] = []
    line.send([("GET", "a"), ("GET", "b")], heard.append)
    line.send([("GET", "c")], heard.append)
    for piece in (b":1\r\n-NOSCRI", b"PT no\r\n$1\r", b"\nx\r\n"):
        line.data_received(piece)
    (one, error), two = heard
    assert (one, two) == (1, [b"x"])
    assert isinstance(error, NoScriptError)
    assert connection.transport.written[1] == b"*2\r\n$3\r\nGET\r\n$1\r\nc\r\n"


@pytest.mark.parametrize("end", ["lost", "nonsense"])
async def test_who_waits_hears_that_the_connection_is_gone(end: str) -> None:
    """A lost connection, and an answer that is none, end all that was asked on it."""
    line = RedisConnection(Connection())
    heard: list[Any] = []
    line.send([("GET", "a")], heard.append)
    if end == "lost":
        line.connection_lost(None)
    else:
        line.data_received(b"nonsense\r\n")
    assert [type(each) for each in heard] == [Disconnected]
    assert line.closed


async def test_one_connection_is_opened_for_all_and_again_after_its_loss() -> None:
    """Who comes while it is opened waits for the same one."""
    first, second = Connection(), Connection()
    wire = wire_to(first, second)
    wire.close()
    assert wire.connection is None
    one, same = await asyncio.gather(wire.open(), wire.open())
    assert one is same is wire.connection
    wire.close()
    assert (wire.connection, first.transport.aborted) == (None, 1)
    assert await wire.open() is not one
    # The old one's end comes late, and is nothing to the new one.
    one.connection_lost(None)
    assert wire.connection is not None


async def test_a_connection_that_fails_is_given_back_to_the_driver() -> None:
    """Nothing is left open, and the next one is tried."""
    bad = Connection(Disconnected("refused"))
    wire = wire_to(bad, Connection())
    with pytest.raises(Disconnected, match="refused"):
        await wire.open()
    assert bad.disconnected == 1
    assert not (await wire.open()).closed


async def test_a_flight_that_is_late_leaves_its_connection() -> None:
    """It is given up after its time, once, and what comes later is nobody's."""
    line = RedisConnection(Connection())
    calls, asking = commands("a")
    landed: list[Any] = []
    done = asyncio.Event()

    def land(_: InFlightBatch, outcome: Any) -> None:
        landed.append(outcome)
        done.set()

    InFlightBatch(calls, asking, line, 0.001, land)
    with anyio.fail_after(10):
        await done.wait()
    assert isinstance(landed[0], StoreUnavailable)
    assert landed[0].kind == "timeout"
    assert line.closed
    line.connection_lost(None)
    assert len(landed) == 1


async def test_what_waits_behind_a_late_flight_is_late_too() -> None:
    """The connection is closed for want of an answer: that is what the others hear."""
    line = RedisConnection(Connection())
    (first, asking), (second, also) = commands("a"), commands("b")
    landed: dict[str, Any] = {}
    done = asyncio.Event()

    def land(flight: InFlightBatch, outcome: Any) -> None:
        landed[flight.batch[0].keys[0]] = outcome
        if len(landed) == 2:
            done.set()

    InFlightBatch(first, asking, line, 0.001, land)
    InFlightBatch(second, also, line, 60, land)
    with anyio.fail_after(10):
        await done.wait()
    assert {key: to_store_error(outcome).kind for key, outcome in landed.items()} == {
        "a": "timeout",
        "b": "timeout",
    }


async def test_a_flight_lands_with_its_answers() -> None:
    """An answer ends it, and its clock with it."""
    line = RedisConnection(Connection())
    calls, asking = commands("a")
    landed: list[Any] = []
    flight = InFlightBatch(calls, asking, line, 0.001, lambda _, outcome: landed.append(outcome))
    line.data_received(b":1\r\n")
    assert (landed, flight.done) == ([[1]], True)
    await asyncio.sleep(0.01)
    assert landed == [[1]]
