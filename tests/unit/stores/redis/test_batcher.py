"""Calls of one turn travel together, alone at once, and each hears its own answer."""

import asyncio
import contextvars
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as Disconnected

from fleetlimit.errors import StoreUnavailable
from fleetlimit.stores.redis.batcher import MAX_BATCH, MAX_IN_FLIGHT, Lane
from fleetlimit.stores.redis.client import Client
from fleetlimit.stores.redis.scripts import Script
from support.lane import OTHER, PATIENT, SCRIPT, FakeClient, call, lane_to, same, turns


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
