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
from support.lane import OTHER, SCRIPT, FakeClient, Sent, call, lane_to, same, turns
from support.tracing import exact_cancellation


class Forgetful(FakeClient):
    """A server that forgets every script at once."""

    async def script_load(self, text: str) -> str:
        """Learn nothing."""
        self.loaded.append(text)
        return text


async def test_script_that_stays_unknown_is_an_error() -> None:
    """A server that forgets a script at once is not asked a third time."""
    client = Forgetful()
    with pytest.raises(StoreRefused, match="NOSCRIPT"):
        await lane_to(client).call(OTHER, ["a"], [], same)
    assert (client.loaded, client.sizes) == (["other"], [1, 1])


async def test_error_of_one_call_is_its_own() -> None:
    """One bad bucket says nothing to the calls that travelled with it."""
    client = FakeClient()
    client.answer = lambda command: ResponseError("ERR") if command[3] == "bad" else command[3]
    lane = lane_to(client)
    bad, good = call(lane, "bad"), call(lane, "good")
    assert await good == "good"
    with pytest.raises(StoreRefused, match="ERR"):
        await bad


async def test_failure_of_the_way_is_told_to_all() -> None:
    """When the connection breaks, every call on it hears so, and the next one is tried again."""
    client = FakeClient()
    client.failures.append(Disconnected("closed"))
    lane = lane_to(client)
    answers = await asyncio.gather(*(call(lane, 1) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert await call(lane, "again") == "again"


async def test_answer_that_does_not_come_is_a_timeout() -> None:
    """A server that does not answer is given up after the operation timeout."""
    client = FakeClient(held=True)
    lane = lane_to(client, Timeouts(connect=10, operation=0.02))
    with anyio.fail_after(10), pytest.raises(StoreUnavailable, match="within 20 ms") as caught:
        await lane.call(SCRIPT, ["a"], [], same)
    assert caught.value.kind == "timeout"
    client.release()
    assert await lane.call(SCRIPT, ["b"], [], same) == "b"


class Deaf(FakeClient):
    """A driver that does not hear of its cancellation, and breaks later."""

    async def answered(self, sent: Sent) -> list[Any]:
        """Wait for the gate, whatever happens."""
        with contextlib.suppress(asyncio.CancelledError):
            await super().answered(sent)
        return await super().answered(sent)


@exact_cancellation
@pytest.mark.parametrize("broken", [True, False], ids=["failure", "answer"])
async def test_what_ends_after_its_timeout_is_nobodys(broken: bool) -> None:  # noqa: FBT001 - a case
    """A caller is not held by a driver that goes on, and its late end is of no consequence."""
    client = Deaf(held=True)
    lane = lane_to(client, Timeouts(connect=10, operation=0.02))
    with anyio.fail_after(10), pytest.raises(StoreUnavailable, match="within 20 ms"):
        await lane.call(SCRIPT, ["a"], [], same)
    if broken:
        client.failures.append(Disconnected("closed"))
    client.release()
    with anyio.fail_after(10):
        await lane.aclose()
    assert await lane_to(client).call(SCRIPT, ["b"], [], same) == "b"
    await turns()
    assert not lane._late


async def test_late_failure_is_heard_of_silently() -> None:
    """A failure that comes after its caller was answered is not reported as unheard."""
    late: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    late.set_exception(Disconnected("closed"))
    lane_to(FakeClient())._forget(late)
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

    client = FakeClient()
    client.answer = busy
    lane = lane_to(client, Timeouts(connect=10, operation=0.01))
    assert await lane.call(SCRIPT, ["late"], [], same) == "late"


class Pool:
    """A pool that counts how often its idle connections were closed."""

    closed = 0

    async def disconnect(self, *, inuse_connections: bool) -> None:
        """Close idle connections."""
        assert not inuse_connections
        self.closed += 1


async def test_read_only_server_is_looked_up_anew() -> None:
    """A server that became a replica is left: behind its name there may be another by now."""
    client, pool = FakeClient(), Pool()
    client.answer = lambda _: ReadOnlyError("replica")
    lane = lane_to(client)
    with pytest.raises(StoreRefused) as caught:
        await lane.call(SCRIPT, ["a"], [], same)
    assert (caught.value.kind, pool.closed) == ("read_only", 0)
    client.connection_pool = pool
    with pytest.raises(StoreRefused):
        await lane.call(SCRIPT, ["a"], [], same)
    assert pool.closed == 1
