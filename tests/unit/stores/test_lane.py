"""Calls of one turn travel together, alone at once, and each hears its own answer."""

import asyncio
import contextlib
import contextvars
import time
from typing import Any, cast

import anyio
import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError, ResponseError

from headgate.core.errors import StoreRefused, StoreUnavailable
from headgate.stores.command import Script
from headgate.stores.connect import Client, Timeouts
from headgate.stores.lane import MAX_BATCH, MAX_IN_FLIGHT, Lane
from support.lane import FakeClient, Sent
from support.tracing import exact_cancellation

SCRIPT, OTHER = Script("take", "text", "text"), Script("settle", "other", "other")
PATIENT = Timeouts(connect=10, operation=10)


def lane_to(client: FakeClient, timeouts: Timeouts = PATIENT) -> Lane:
    """Return a lane to a server that knows the first script."""
    client.known.add(SCRIPT.sha)
    return Lane(cast("Client", client), timeouts)


def same(answer: Any) -> Any:
    """Read an answer as it is."""
    return answer


def call(lane: Lane, answer: Any, script: Script = SCRIPT) -> asyncio.Task[Any]:
    """Call a script that answers this."""
    return asyncio.ensure_future(lane.call(script, [str(answer)], [], same))


async def turns(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_of_one_turn_are_one_pipeline() -> None:
    """Calls made together leave together, and each gets its own answer."""
    client = FakeClient()
    lane = lane_to(client)
    answers = await asyncio.gather(*(call(lane, number) for number in range(50)))
    assert answers == [str(number) for number in range(50)]
    assert client.sizes == [50]


async def test_call_alone_leaves_in_its_turn() -> None:
    """A call waits for no company: it is under way before anything has to happen."""
    client = FakeClient(held=True)
    waiting = call(lane_to(client), "alone")
    await turns()
    assert client.sizes == [1]
    client.release()
    assert await waiting == "alone"


async def test_command_names_script_keys_and_arguments() -> None:
    """What is sent is EVALSHA with the script's SHA, the number of keys, keys and arguments."""
    client = FakeClient()
    await lane_to(client).call(SCRIPT, ["a", "b"], [1, "x"], same)
    assert client.sent[0].commands == [("EVALSHA", "text", 2, "a", "b", 1, "x")]


async def test_crowd_is_split_and_held_back() -> None:
    """No pipeline is larger, and no more are under way, than allowed; the rest leaves after."""
    client = FakeClient(held=True)
    lane = lane_to(client)
    crowd = [call(lane, number) for number in range((MAX_IN_FLIGHT + 1) * MAX_BATCH + 44)]
    await turns()
    assert client.sizes == [MAX_BATCH] * MAX_IN_FLIGHT
    client.release()
    assert await asyncio.gather(*crowd) == [str(number) for number in range(len(crowd))]
    assert client.sizes == [MAX_BATCH] * (MAX_IN_FLIGHT + 1) + [44]


async def test_calls_made_while_others_travel_leave_together() -> None:
    """What is asked while all ways are taken, in whatever turns, leaves as one pipeline."""
    client = FakeClient(held=True)
    lane = lane_to(client)
    calls = []
    for number in range(MAX_IN_FLIGHT + 7):
        calls.append(call(lane, number))
        await turns()
    client.release()
    await asyncio.gather(*calls)
    assert client.sizes == [1] * MAX_IN_FLIGHT + [7]


async def test_script_that_the_server_lost_is_loaded_once_and_run() -> None:
    """Calls whose script is unknown are sent again after loading; the others are not."""
    client = FakeClient()
    lane = lane_to(client)
    answers = await asyncio.gather(
        call(lane, "a"), call(lane, "b", OTHER), call(lane, "c", OTHER), call(lane, "d")
    )
    assert list(answers) == ["a", "b", "c", "d"]
    assert client.loaded == ["other"]
    assert client.sizes == [4, 2]


async def test_every_pipeline_tells_its_size() -> None:
    """Whoever wants to know is told how many calls each pipeline carried, those sent again too."""
    client, told = FakeClient(), list[int]()
    client.known.add(SCRIPT.sha)
    lane = Lane(cast("Client", client), PATIENT, sent=told.append)
    await asyncio.gather(call(lane, "a"), call(lane, "b"), call(lane, "c", OTHER))
    await call(lane, "d")
    assert told == client.sizes == [3, 1, 1]


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


async def test_caller_that_left_before_departure_is_not_sent() -> None:
    """A call that was cancelled in its turn is not spent."""
    client = FakeClient()
    lane = lane_to(client)
    left, stays = call(lane, "left"), call(lane, "stays")
    left.cancel()
    assert await stays == "stays"
    assert [sent.commands[0][3] for sent in client.sent] == ["stays"]
    alone = call(lane, "alone")
    alone.cancel()
    await turns()
    assert client.sizes == [1]


@pytest.mark.parametrize("script", [SCRIPT, OTHER], ids=["known", "unknown"])
async def test_caller_that_left_on_the_way_costs_the_others_nothing(script: Script) -> None:
    """The companions of a call that was cancelled under way get their answers."""
    client = FakeClient(held=True)
    lane = lane_to(client)
    left, stays = call(lane, "left", script), call(lane, "stays", script)
    await turns()
    left.cancel()
    client.release()
    assert await stays == "stays"
    assert left.cancelled()
    assert await call(lane, "next") == "next"


async def test_caller_that_left_hears_of_no_failure() -> None:
    """A failure is told to those that still wait."""
    client = FakeClient(held=True)
    client.failures.append(Disconnected("closed"))
    lane = lane_to(client)
    left, stays = call(lane, "left"), call(lane, "stays")
    await turns()
    left.cancel()
    client.release()
    with pytest.raises(StoreUnavailable, match="closed"):
        await stays
    assert left.cancelled()


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


async def test_closing_waits_for_what_is_under_way() -> None:
    """A lane is closed when every call that had left, or waited to leave, has its answer."""
    client = FakeClient(held=True)
    lane = lane_to(client)
    calls = [call(lane, number) for number in range(MAX_IN_FLIGHT * MAX_BATCH + 1)]
    await turns()
    closing = asyncio.ensure_future(lane.aclose())
    await turns()
    assert not closing.done()
    client.release()
    await closing
    await turns()
    assert all(each.done() for each in calls)


async def test_pipeline_belongs_to_the_trace_of_its_first_call() -> None:
    """The pipeline travels in the context of the call that it left for."""
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")
    client = FakeClient()
    client.answer = lambda _: trace.get()
    lane = lane_to(client)

    async def traced(name: str) -> Any:
        trace.set(name)
        return await lane.call(SCRIPT, ["a"], [], same)

    answers = await asyncio.gather(traced("first"), traced("second"))
    assert list(answers) == ["first", "first"]
    assert trace.get() == "none"
