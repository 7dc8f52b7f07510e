"""What fails on the way to a store is told to those whom it concerns, and to nobody else."""

import asyncio
import contextlib
import time
from typing import Any

import anyio
import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError, ResponseError

from fleetlimit.errors import StoreRefused, StoreUnavailable
from fleetlimit.stores.redis.client import Timeouts
from support.batcher import (
    OTHER,
    SCRIPT,
    FakeConnection,
    FakeServer,
    batcher_for,
    call,
    loop_turns,
    unchanged,
)
from support.tracing import exact_cancellation


class ForgetfulClient(FakeServer):
    """A server that forgets every script at once."""

    async def script_load(self, text: str) -> str:
        """Learn nothing."""
        self.loaded.append(text)
        return text


async def test_script_that_stays_unknown_is_an_error() -> None:
    """A server that forgets a script at once is not asked a third time."""
    client = ForgetfulClient()
    with pytest.raises(StoreRefused, match="NOSCRIPT"):
        await batcher_for(client).call(OTHER, ["a"], [], unchanged)
    assert (client.loaded, client.sizes) == (["other"], [1, 1])


async def test_error_of_one_call_is_its_own() -> None:
    """One bad bucket says nothing to the calls that travelled with it."""
    client = FakeServer()
    client.reply_to = lambda command: ResponseError("ERR") if command[3] == "bad" else command[3]
    batcher = batcher_for(client)
    bad, good = call(batcher, "bad"), call(batcher, "good")
    assert await good == "good"
    with pytest.raises(StoreRefused, match="ERR"):
        await bad


async def test_failure_of_the_way_is_told_to_all() -> None:
    """When the connection breaks, every call on it hears so, and the next one is tried again."""
    client = FakeServer()
    client.failures.append(Disconnected("closed"))
    batcher = batcher_for(client)
    answers = await asyncio.gather(*(call(batcher, 1) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert await call(batcher, "again") == "again"


async def test_answer_that_does_not_come_is_a_timeout() -> None:
    """A server that does not answer is given up after the operation timeout."""
    client = FakeServer(held=True)
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.02))
    with anyio.fail_after(10), pytest.raises(StoreUnavailable, match="within 20 ms") as caught:
        await batcher.call(SCRIPT, ["a"], [], unchanged)
    assert caught.value.kind == "timeout"
    client.release()
    assert await batcher.call(SCRIPT, ["b"], [], unchanged) == "b"


class UncancellableClient(FakeServer):
    """A driver that suppresses the cancellation of its connecting, and ends later."""

    def __init__(self) -> None:
        super().__init__()
        self.connected = asyncio.Event()
        self.broken = False

    async def open(self) -> FakeConnection:
        """Wait for the event, whatever happens."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.connected.wait()
        await self.connected.wait()
        if self.broken:
            raise Disconnected("closed")
        return await super().open()


@exact_cancellation
@pytest.mark.parametrize("broken", [True, False], ids=["failure", "connection"])
async def test_what_ends_after_its_timeout_is_nobodys(broken: bool) -> None:  # noqa: FBT001 - a case
    """A caller is not held by a driver that goes on, and its late end is of no consequence."""
    client = UncancellableClient()
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.02))
    with anyio.fail_after(10), pytest.raises(StoreUnavailable, match="within 20 ms"):
        await batcher.call(SCRIPT, ["a"], [], unchanged)
    client.broken = broken
    client.connected.set()
    with anyio.fail_after(10):
        await batcher.aclose()
    client.broken = False
    assert await batcher_for(client).call(SCRIPT, ["b"], [], unchanged) == "b"
    await loop_turns()
    assert not batcher._abandoned


async def test_late_failure_is_heard_of_silently() -> None:
    """A failure that comes after its caller was answered is not reported as unheard."""
    late: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    late.set_exception(Disconnected("closed"))
    batcher_for(FakeServer())._discard_abandoned(late)
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
    del late
    asyncio.get_running_loop().set_exception_handler(None)
    assert reported == []


async def test_answer_that_arrived_in_a_busy_turn_is_taken() -> None:
    """An answer that is there counts, even if the loop was too busy to hear of it in time."""

    def busy(command: tuple[Any, ...]) -> Any:
        time.sleep(0.03)
        return command[3]

    client = FakeServer()
    client.reply_to = busy
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.01))
    assert await batcher.call(SCRIPT, ["late"], [], unchanged) == "late"


async def test_read_only_server_is_left_and_the_primary_looked_up() -> None:
    """Behind the name of a server that became a replica there may be another primary by now."""
    client, lookups = FakeServer(), list[str]()
    client.reply_to = lambda _: ReadOnlyError("replica")

    async def relocate() -> None:
        lookups.append("primary")

    batcher = batcher_for(client, relocate=relocate)
    with pytest.raises(StoreRefused) as caught:
        await batcher.call(SCRIPT, ["a"], [], unchanged)
    await loop_turns()
    assert (caught.value.kind, lookups, client.connection) == ("read_only", ["primary"], None)
    client.reply_to = lambda command: command[3]
    assert await batcher.call(SCRIPT, ["b"], [], unchanged) == "b"
    assert client.opened == 2


async def test_failed_server_is_looked_up_once_at_a_time() -> None:
    """A node that fails may have a successor; a lookup that fails or hangs costs no call."""
    client, begun = FakeServer(), list[asyncio.Event]()

    async def relocate() -> None:
        begun.append(asyncio.Event())
        await begun[-1].wait()
        raise Disconnected("no node replies")

    batcher = batcher_for(client, relocate=relocate)
    client.failures += [Disconnected("closed"), Disconnected("closed")]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="closed"):
            await batcher.call(SCRIPT, ["a"], [], unchanged)
    await loop_turns()
    assert len(begun) == 1
    assert await batcher.call(SCRIPT, ["b"], [], unchanged) == "b"
    begun[0].set()
    await batcher.aclose()
    await loop_turns()
    client.failures.append(Disconnected("closed"))
    with pytest.raises(StoreUnavailable, match="closed"):
        await batcher.call(SCRIPT, ["c"], [], unchanged)
    await loop_turns()
    assert len(begun) == 2
    begun[1].set()
    await batcher.aclose()
