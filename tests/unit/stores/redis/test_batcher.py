"""CommandBatcher: calls of one event-loop iteration share a pipeline, and each gets its reply."""

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as Disconnected

from fleetlimit.errors import BucketCorrupt, StoreUnavailable
from fleetlimit.stores.redis.batcher import (
    MAX_BATCH,
    MAX_BATCH_KEYS,
    MAX_IN_FLIGHT,
    MIN_LONE_CALLS,
)
from fleetlimit.stores.redis.scripts import Script
from support.batcher import OTHER, SCRIPT, FakeServer, batcher_for, call, loop_turns, unchanged


async def test_calls_of_one_iteration_share_a_pipeline() -> None:
    """Calls made in one event-loop iteration are one pipeline, and each gets its own result."""
    client = FakeServer()
    batcher = batcher_for(client)
    answers = await asyncio.gather(*(call(batcher, number) for number in range(50)))
    assert answers == [str(number) for number in range(50)]
    assert client.sizes == [50]


async def test_single_call_is_sent_in_its_iteration() -> None:
    """An idle batcher sends a call without any delay."""
    client = FakeServer(held=True)
    waiting = call(batcher_for(client), "alone")
    await loop_turns()
    assert client.sizes == [1]
    client.release()
    assert await waiting == "alone"


async def test_call_after_lone_calls_is_sent_at_once() -> None:
    """After calls that were alone, one is sent without another iteration of the event loop.

    The further calls of its iteration share a pipeline as before, and end the row of lone calls.
    """
    client = FakeServer()
    batcher = batcher_for(client)
    for number in range(MIN_LONE_CALLS):
        waiting = call(batcher, number)
        assert len(client.sizes) == number
        assert await waiting == str(number)
    waiting = call(batcher, "lone")
    assert client.sizes == [1] * (MIN_LONE_CALLS + 1)
    crowd = [call(batcher, number) for number in range(5)]
    assert await asyncio.gather(waiting, *crowd) == ["lone", *map(str, range(5))]
    assert client.sizes == [1] * (MIN_LONE_CALLS + 1) + [5]
    after = call(batcher, "after")
    assert len(client.sizes) == MIN_LONE_CALLS + 2
    assert await after == "after"


async def test_command_is_evalsha() -> None:
    """The command is EVALSHA with the script's SHA-1, the number of keys, keys and arguments."""
    client = FakeServer()
    await batcher_for(client).call(SCRIPT, ["a", "b"], [1, "x"], unchanged)
    assert client.pipelines[0] == (("EVALSHA", "text", 2, "a", "b", 1, "x"),)


async def test_batch_size_and_pipelines_in_flight_are_bounded() -> None:
    """Calls beyond the batch size and the pipelines in flight queue for the next pipelines."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    crowd = [call(batcher, number) for number in range((MAX_IN_FLIGHT + 1) * MAX_BATCH + 44)]
    await loop_turns()
    assert client.sizes == [MAX_BATCH] * MAX_IN_FLIGHT
    client.release()
    assert await asyncio.gather(*crowd) == [str(number) for number in range(len(crowd))]
    assert client.sizes == [MAX_BATCH] * (MAX_IN_FLIGHT + 1) + [44]


async def test_keys_of_a_pipeline_are_bounded() -> None:
    """Checks of many limits are fewer in a pipeline, because each takes the server longer."""
    client = FakeServer()
    batcher = batcher_for(client)
    keys = [str(number) for number in range(MAX_BATCH_KEYS // 8)]
    await asyncio.gather(*(batcher.call(SCRIPT, keys, [], unchanged) for _ in range(20)))
    assert client.sizes == [8, 8, 4]


async def test_queued_calls_share_a_pipeline() -> None:
    """Calls made while the maximum of pipelines is in flight share the next pipeline."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    calls = []
    for number in range(MAX_IN_FLIGHT + 7):
        calls.append(call(batcher, number))
        await loop_turns()
    client.release()
    await asyncio.gather(*calls)
    assert client.sizes == [1] * MAX_IN_FLIGHT + [7]


async def test_noscript_is_loaded_once_and_resent() -> None:
    """Only the calls with an unknown script are sent again, after it was loaded."""
    client = FakeServer()
    batcher = batcher_for(client)
    answers = await asyncio.gather(
        call(batcher, "a"), call(batcher, "b", OTHER), call(batcher, "c", OTHER), call(batcher, "d")
    )
    assert list(answers) == ["a", "b", "c", "d"]
    assert client.loaded == ["other"]
    assert client.sizes == [4, 3], "SCRIPT LOAD and both calls are one pipeline"


async def test_on_pipeline_sent_receives_the_number_of_calls() -> None:
    """The callback receives the number of calls of each pipeline, resent calls included."""
    client, sizes = FakeServer(), list[int]()
    batcher = batcher_for(client, on_pipeline_sent=sizes.append)
    await asyncio.gather(call(batcher, "a"), call(batcher, "b"), call(batcher, "c", OTHER))
    await call(batcher, "d")
    assert sizes == [3, 1, 1]


async def test_call_cancelled_before_sending_is_not_sent() -> None:
    """A call that is cancelled in its iteration is not sent."""
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
async def test_call_cancelled_in_flight_does_not_affect_others(script: Script) -> None:
    """Other calls of the pipeline get their results."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    left, stays = call(batcher, "left", script), call(batcher, "stays", script)
    await loop_turns()
    left.cancel()
    client.release()
    assert await stays == "stays"
    assert left.cancelled()
    assert await call(batcher, "next") == "next"


async def test_failure_does_not_reach_a_cancelled_call() -> None:
    """A failure reaches only calls that are still awaited."""
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


async def test_aclose_waits_for_calls_in_flight() -> None:
    """The batcher closes after every sent or queued call has its result."""
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


async def test_redirected_calls_are_resent_through_redis_py() -> None:
    """redis-py follows the redirections of a Cluster, for the redirected calls only."""
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


async def test_failed_redirection_fails_only_its_call() -> None:
    """A redirection to a dead node is a store error of that call."""
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


async def test_failed_redirection_fails_no_other_redirected_call() -> None:
    """Of the calls that are redirected together, those of living nodes have their results."""
    server = FakeServer()
    server.reply_to = lambda _: MovedError("1 127.0.0.1:1")

    async def run(*command: Any) -> Any:
        if command[3] == "dead":
            raise Disconnected("gone")
        return command[3]

    server.execute_command = run  # type: ignore[method-assign]
    batcher = batcher_for(server)
    bad, good = call(batcher, "dead"), call(batcher, "alive")
    assert await good == "alive"
    with pytest.raises(StoreUnavailable, match="gone"):
        await bad


async def test_failed_redirection_leaves_the_queue() -> None:
    """Queued calls are for the node of the batcher, which lives."""
    server = FakeServer()
    server.reply_to = lambda command: (
        MovedError("1 127.0.0.1:1") if command[3] == "moved" else command[3]
    )
    failing = asyncio.Event()

    async def run(*_: Any) -> Any:
        await failing.wait()
        raise Disconnected("gone")

    server.execute_command = run  # type: ignore[method-assign]
    batcher = batcher_for(server)
    moved = call(batcher, "moved")
    await loop_turns()
    server.hold()
    calls = []
    for _ in range(MAX_IN_FLIGHT):
        calls.append(call(batcher, "stays"))
        await loop_turns()
    failing.set()
    with pytest.raises(StoreUnavailable, match="gone"):
        await moved
    server.release()
    assert await asyncio.gather(*calls) == ["stays"] * MAX_IN_FLIGHT


async def test_error_of_one_check_in_a_redirected_command_is_its_own() -> None:
    """Checks of one script call are redirected together; one has a corrupt bucket."""
    server = FakeServer()
    script = Script("acquire", "many", "many", batchable=True)
    server.known_scripts.add(script.sha)
    server.reply_to = lambda _: MovedError("1 127.0.0.1:1")

    async def run(*_: Any) -> Any:
        return [7, ResponseError("WRONGTYPE a bucket"), 0, 0, 0, 0, 0, 1, 1, 4, 0, 0, 0]

    server.execute_command = run  # type: ignore[method-assign]
    batcher = batcher_for(server)
    bad, good = (
        asyncio.ensure_future(batcher.call(script, [key], [0, "charge"], unchanged))
        for key in ("bad", "good")
    )
    assert await good == [7, 1, 1, 4, 0, 0, 0]
    with pytest.raises(BucketCorrupt):
        await bad


async def test_traced_call_shares_the_pipeline(
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


async def test_span_of_a_failed_call_has_the_error(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The error is recorded; the span of a cancelled call ends without one."""
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
