"""Calls of one turn travel together, alone at once, and each hears its own answer."""

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from redis.exceptions import AskError, MovedError, TryAgainError
from redis.exceptions import ConnectionError as Disconnected

from fleetlimit.errors import StoreUnavailable
from fleetlimit.stores.redis.batcher import MAX_BATCH, MAX_IN_FLIGHT
from fleetlimit.stores.redis.scripts import Script
from support.batcher import OTHER, SCRIPT, FakeServer, batcher_for, call, loop_turns, unchanged


async def test_calls_of_one_turn_are_one_pipeline() -> None:
    """Calls made together leave together, and each gets its own answer."""
    client = FakeServer()
    batcher = batcher_for(client)
    answers = await asyncio.gather(*(call(batcher, number) for number in range(50)))
    assert answers == [str(number) for number in range(50)]
    assert client.sizes == [50]


async def test_call_alone_leaves_in_its_turn() -> None:
    """A call waits for no company: it is under way before anything has to happen."""
    client = FakeServer(held=True)
    waiting = call(batcher_for(client), "alone")
    await loop_turns()
    assert client.sizes == [1]
    client.release()
    assert await waiting == "alone"


async def test_command_names_script_keys_and_arguments() -> None:
    """What is sent is EVALSHA with the script's SHA, the number of keys, keys and arguments."""
    client = FakeServer()
    await batcher_for(client).call(SCRIPT, ["a", "b"], [1, "x"], unchanged)
    assert client.pipelines[0] == (("EVALSHA", "text", 2, "a", "b", 1, "x"),)


async def test_crowd_is_split_and_held_back() -> None:
    """No pipeline is larger, and no more are under way, than allowed; the rest leaves after."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    crowd = [call(batcher, number) for number in range((MAX_IN_FLIGHT + 1) * MAX_BATCH + 44)]
    await loop_turns()
    assert client.sizes == [MAX_BATCH] * MAX_IN_FLIGHT
    client.release()
    assert await asyncio.gather(*crowd) == [str(number) for number in range(len(crowd))]
    assert client.sizes == [MAX_BATCH] * (MAX_IN_FLIGHT + 1) + [44]


async def test_calls_made_while_others_travel_leave_together() -> None:
    """What is asked while all ways are taken, in whatever turns, leaves as one pipeline."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    calls = []
    for number in range(MAX_IN_FLIGHT + 7):
        calls.append(call(batcher, number))
        await loop_turns()
    client.release()
    await asyncio.gather(*calls)
    assert client.sizes == [1] * MAX_IN_FLIGHT + [7]


async def test_script_that_the_server_lost_is_loaded_once_and_run() -> None:
    """Calls whose script is unknown are sent again after loading; the others are not."""
    client = FakeServer()
    batcher = batcher_for(client)
    answers = await asyncio.gather(
        call(batcher, "a"), call(batcher, "b", OTHER), call(batcher, "c", OTHER), call(batcher, "d")
    )
    assert list(answers) == ["a", "b", "c", "d"]
    assert client.loaded == ["other"]
    assert client.sizes == [4, 2]


async def test_every_pipeline_tells_its_size() -> None:
    """Whoever wants to know is told how many calls each pipeline carried, those sent again too."""
    client, told = FakeServer(), list[int]()
    batcher = batcher_for(client, on_pipeline_sent=told.append)
    await asyncio.gather(call(batcher, "a"), call(batcher, "b"), call(batcher, "c", OTHER))
    await call(batcher, "d")
    assert told == client.sizes == [3, 1, 1]


async def test_caller_that_left_before_departure_is_not_sent() -> None:
    """A call that was cancelled in its turn is not spent."""
    client = FakeServer()
    batcher = batcher_for(client)
    left, stays = call(batcher, "left"), call(batcher, "stays")
    left.cancel()
    assert await stays == "stays"
    assert [sent[0][3] for sent in client.pipelines] == ["stays"]
    alone = call(batcher, "alone")
    alone.cancel()
    await loop_turns()
    assert client.sizes == [1]


@pytest.mark.parametrize("script", [SCRIPT, OTHER], ids=["known", "unknown"])
async def test_caller_that_left_on_the_way_costs_the_others_nothing(script: Script) -> None:
    """The companions of a call that was cancelled under way get their answers."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    left, stays = call(batcher, "left", script), call(batcher, "stays", script)
    await loop_turns()
    left.cancel()
    client.release()
    assert await stays == "stays"
    assert left.cancelled()
    assert await call(batcher, "next") == "next"


async def test_caller_that_left_hears_of_no_failure() -> None:
    """A failure is told to those that still wait."""
    client = FakeServer(held=True)
    client.failures.append(Disconnected("closed"))
    batcher = batcher_for(client)
    left, stays = call(batcher, "left"), call(batcher, "stays")
    await loop_turns()
    left.cancel()
    client.release()
    with pytest.raises(StoreUnavailable, match="closed"):
        await stays
    assert left.cancelled()


async def test_closing_waits_for_what_is_under_way() -> None:
    """A batcher is closed when every call that had left, or waited to leave, has its answer."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    calls = [call(batcher, number) for number in range(MAX_IN_FLIGHT * MAX_BATCH + 1)]
    await loop_turns()
    closing = asyncio.ensure_future(batcher.aclose())
    await loop_turns()
    assert not closing.done()
    client.release()
    await closing
    await loop_turns()
    assert all(each.done() for each in calls)


async def test_redirected_calls_are_sent_again_by_the_driver() -> None:
    """A Cluster that moved a slot redirects; the driver follows, for those calls alone."""
    server = FakeServer()
    moved = [MovedError("1 127.0.0.1:1"), AskError("1 127.0.0.1:1"), TryAgainError("wait")]
    server.reply_to = lambda command: moved.pop() if command[3] == "moved" else command[3]
    batcher = batcher_for(server)
    answers = await asyncio.gather(
        call(batcher, "stays"),
        call(batcher, "moved"),
        call(batcher, "moved"),
        call(batcher, "moved"),
    )
    assert list(answers) == ["stays", "moved", "moved", "moved"]
    assert server.redirected == [("EVALSHA", "text", 1, "moved")] * 3


async def test_redirected_call_that_fails_fails_alone() -> None:
    """A redirection that leads nowhere is an error of the store."""
    server = FakeServer()
    server.reply_to = lambda command: (
        MovedError("1 127.0.0.1:1") if command[3] == "a" else command[3]
    )

    async def nowhere(*_: Any) -> Any:
        raise Disconnected("gone")

    server.execute_command = nowhere  # type: ignore[method-assign]
    batcher = batcher_for(server)
    bad, good = call(batcher, "a"), call(batcher, "b")
    assert await good == "b"
    with pytest.raises(StoreUnavailable, match="gone"):
        await bad


async def test_traced_call_travels_like_any_other(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Each traced call has a client span below the current one, without keys or arguments."""
    tracer = provider.get_tracer("test")
    server = FakeServer()
    batcher = batcher_for(server, tracer=tracer)

    async def traced(name: str) -> Any:
        with tracer.start_as_current_span(name):
            return await batcher.call(SCRIPT, ["secret"], [name], unchanged)

    async def untraced() -> Any:
        return await batcher.call(SCRIPT, ["a"], [], unchanged)

    await asyncio.gather(traced("first"), traced("second"), untraced())
    await loop_turns()
    assert server.sizes == [3]
    calls = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CLIENT]
    above = {span.context.span_id: span.name for span in spans.get_finished_spans()}
    assert sorted(above[span.parent.span_id] for span in calls if span.parent) == [
        "first",
        "second",
    ]
    for span in calls:
        assert span.name == "EVALSHA"
        assert dict(span.attributes or {}) == {
            "db.system.name": "redis",
            "db.operation.name": "EVALSHA",
            "db.stored_procedure.name": "acquire",
        }
        assert "secret" not in span.to_json()


async def test_failed_call_is_an_error_on_its_span(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The error is recorded; a call whose caller was cancelled ends its span without one."""
    tracer = provider.get_tracer("test")
    server = FakeServer(held=True)
    server.failures.append(Disconnected("closed"))
    batcher = batcher_for(server, tracer=tracer)
    with tracer.start_as_current_span("check"):
        left, stays = call(batcher, "left"), call(batcher, "stays")
        await loop_turns()
    left.cancel()
    server.release()
    with pytest.raises(StoreUnavailable, match="closed"):
        await stays
    await loop_turns()
    calls = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert sorted(span.status.status_code.name for span in calls) == ["ERROR", "UNSET"]
