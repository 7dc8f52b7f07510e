"""CommandBatcher: a failure reaches exactly the calls that it affects."""

import asyncio
import contextlib
import time
from typing import Any

import anyio
import pytest
from redis.exceptions import (
    AskError,
    AuthenticationError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as Disconnected

from fleetlimit.errors import ConfigError, StoreError, StoreRejected, StoreUnavailable
from fleetlimit.stores.redis.batcher import MAX_BATCH, MAX_IN_FLIGHT
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.scripts import Script
from fleetlimit.stores.redis.tick_timer import TICKS
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
from support.eventually import PATIENCE_SECONDS
from support.tracing import exact_cancellation

BATCHABLE = Script("acquire", "batchable", "batchable", batchable=True)


class ForgetfulClient(FakeServer):
    """Server that forgets every script at once."""

    def load(self, text: str) -> str:
        """Learn nothing."""
        self.loaded.append(text)
        return text


async def test_repeated_noscript_is_an_error() -> None:
    """NOSCRIPT right after loading the script is an error."""
    client = ForgetfulClient()
    with pytest.raises(StoreRejected, match="NOSCRIPT"):
        await batcher_for(client).call(OTHER, ["a"], [], unchanged)
    assert (client.loaded, client.sizes) == (["other"], [1, 2])


async def test_error_reply_fails_only_its_call() -> None:
    """A corrupt bucket does not affect other calls of the pipeline."""
    client = FakeServer()
    client.reply_to = lambda command: ResponseError("ERR") if command[3] == "bad" else command[3]
    batcher = batcher_for(client)
    bad, good = call(batcher, "bad"), call(batcher, "good")
    assert await good == "good"
    with pytest.raises(StoreRejected, match="ERR"):
        await bad


async def test_broken_connection_fails_every_call_on_it() -> None:
    """When the connection breaks, every call on it fails, and the next call reconnects."""
    client = FakeServer()
    client.failures.append(Disconnected("closed"))
    batcher = batcher_for(client)
    answers = await asyncio.gather(*(call(batcher, 1) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert len(set(answers)) == 1, "the breaker counts one object as one failure"
    assert await call(batcher, "again") == "again"


async def test_equal_error_replies_of_a_pipeline_are_one_failure() -> None:
    """The calls of a pipeline to a read-only server raise one object; another error is another."""
    client = FakeServer()
    client.reply_to = lambda command: ReadOnlyError(f"READONLY {command[3]}")
    batcher = batcher_for(client)
    answers = await asyncio.gather(*(call(batcher, key) for key in "aaab"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreRejected] * 4
    assert len(set(answers)) == 2


async def test_missing_reply_is_a_timeout() -> None:
    """A call fails after the operation timeout."""
    client = FakeServer(held=True)
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.02))
    with (
        anyio.fail_after(PATIENCE_SECONDS),
        pytest.raises(StoreUnavailable, match="within 20 ms") as caught,
    ):
        await batcher.call(SCRIPT, ["a"], [], unchanged)
    assert caught.value.kind == "timeout"
    client.release()
    assert await batcher.call(SCRIPT, ["b"], [], unchanged) == "b"


async def test_abandoned_opening_is_a_timeout_of_the_calls_on_its_connection() -> None:
    """When `open` is cancelled for a server that does not reply, its other calls timed out, too."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    opening = asyncio.ensure_future(batcher.open(SCRIPT))
    await loop_turns()
    pending = call(batcher, "a")
    await loop_turns()
    opening.cancel()
    with pytest.raises(StoreUnavailable) as caught:
        await pending
    assert caught.value.kind == "timeout"


async def test_late_pipeline_fails_the_pipelines_behind_it() -> None:
    """Pipelines on the connection of a late one fail with the same error object."""
    client = FakeServer(held=True)
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.02))
    first = call(batcher, "a")
    await loop_turns()
    second = call(batcher, "b")
    with anyio.fail_after(PATIENCE_SECONDS):
        failures = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each) for each in failures] == [StoreUnavailable] * 2
    assert failures[0] is failures[1]
    assert client.sizes == [1, 1]


async def test_queued_call_waits_at_most_the_timeout() -> None:
    """A store whose pipelines are never late does not let the queue behind them grow old."""
    client = FakeServer(held=True)
    # So long that no tick comes by itself.
    batcher = batcher_for(client, Timeouts(connect=10, operation=900))
    sent = [call(batcher, number) for number in range(MAX_IN_FLIGHT * MAX_BATCH)]
    queued = [call(batcher, "queued") for _ in range(MAX_BATCH)]
    await loop_turns()
    for _ in range(TICKS + 1):
        batcher._timer.tick()
    # The pipelines in flight are new ones each time; only the queued calls are old.
    for each in batcher._in_flight:
        each.sent_at_tick = batcher._timer.number
    young = call(batcher, "young")
    await loop_turns()
    batcher._timer.tick()
    await loop_turns()
    failures = {each.exception() for each in queued}
    assert [str(each) for each in failures] == ["timeout: not sent within 900000 ms"]
    assert not young.done()
    client.release()
    await asyncio.gather(*sent, young)


async def test_blocked_event_loop_does_not_count_against_the_store() -> None:
    """A tick that comes late counts once, whatever time has passed."""

    def block() -> None:
        time.sleep(0.06)

    client = FakeServer(held=True)
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.05))
    waiting = call(batcher, "a")
    await loop_turns()
    for _ in range(3):
        block()
        await loop_turns(2)
    assert not waiting.done()
    client.release()
    assert await waiting == "a"


async def test_rejected_script_load_is_the_error() -> None:
    """The reply to SCRIPT LOAD says why the script is missing."""
    client = FakeServer()
    client.load = lambda _: NoPermissionError("NOPERM no script|load")  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(StoreRejected, match="NOPERM") as caught:
        await batcher_for(client).call(OTHER, ["a"], [], unchanged)
    assert caught.value.kind == "permission"


class SlowToOpen(FakeServer):
    """Server whose connections open when the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_open = asyncio.Event()

    async def open(self) -> FakeConnection:
        """Wait for the event, and connect."""
        await self.may_open.wait()
        return await super().open()


async def test_connecting_continues_after_the_timeout_of_a_call() -> None:
    """A connection that takes longer than the operation timeout is used by the next call."""
    client = SlowToOpen()
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.02))
    waiting = [call(batcher, "a") for _ in range(3)]
    with anyio.fail_after(PATIENCE_SECONDS):
        failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert len(set(failures)) == 1, "the breaker counts one object as one failure"
    client.may_open.set()
    await loop_turns()
    assert client.connection is not None
    assert await call(batcher, "b") == "b"
    assert client.opened == 1


async def test_lost_connection_is_opened_again_in_the_background() -> None:
    """The next call finds a connection."""
    client = FakeServer()
    batcher = batcher_for(client)
    assert await call(batcher, "a") == "a"
    client.close()
    assert client.on_lost is not None
    client.on_lost()
    await loop_turns()
    assert (client.opened, client.connection is None) == (2, False)


async def test_aclose_ends_a_connection_attempt() -> None:
    """An attempt that no call waits for is cancelled."""
    client = SlowToOpen()
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.02))
    with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(StoreUnavailable):
        await call(batcher, "a")
    with anyio.fail_after(PATIENCE_SECONDS):
        await batcher.aclose()
    assert client.opened == 0


@pytest.mark.parametrize("reply", [[1], [1] * 14, [], "OK", 5, None, {}])
async def test_reply_that_does_not_fit_fails_the_pipeline(reply: Any) -> None:
    """A reply of another length or type fails its pipeline, and the connection is replaced."""
    client = FakeServer()
    client.reply_to = lambda _: reply
    batcher = batcher_for(client)
    client.known_scripts.add(BATCHABLE.sha)
    calls = [batcher.call(BATCHABLE, [key], ["now", "charge"], unchanged) for key in "ab"]
    with anyio.fail_after(PATIENCE_SECONDS):
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in failures] == [StoreRejected] * 2
    assert failures[0] is failures[1]
    await loop_turns()
    client.reply_to = lambda command: command[3]
    assert await call(batcher, "c") == "c"
    assert client.opened == 2


async def test_reply_that_cannot_be_decoded_fails_the_pipeline() -> None:
    """Later replies may belong to other commands, so the connection is replaced."""
    client = FakeServer()
    batcher = batcher_for(client)
    with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(StoreRejected, match="unexpected reply"):
        await batcher.call(SCRIPT, ["text"], [], int)
    assert await call(batcher, "c") == "c"
    assert client.opened == 2


async def test_error_of_one_call_is_not_lost_to_an_invalid_reply_behind_it() -> None:
    """A call has the error that the server replied to it, whatever the later replies are."""
    client = FakeServer()
    client.reply_to = lambda command: ResponseError("ERR") if command[3] == "bad" else command[3]
    batcher = batcher_for(client)
    calls = [call(batcher, "bad"), batcher.call(SCRIPT, ["text"], [], int)]
    with anyio.fail_after(PATIENCE_SECONDS):
        own, invalid = await asyncio.gather(*calls, return_exceptions=True)
    assert str(own) == "unexpected reply: ERR"
    assert "invalid literal" in str(invalid)


@pytest.mark.parametrize(
    "reply", [NoScriptError("NOSCRIPT"), AskError("12182 127.0.0.1:1"), TryAgainError("TRYAGAIN")]
)
async def test_call_is_not_resent_if_a_reply_behind_it_is_invalid(reply: Exception) -> None:
    """A call that was not run fails with its pipeline, and is not run after that."""
    client = FakeServer()
    client.reply_to = lambda command: reply if command[3] == "bad" else command[3]
    batcher = batcher_for(client)
    calls = [call(batcher, "bad"), batcher.call(SCRIPT, ["text"], [], int)]
    with anyio.fail_after(PATIENCE_SECONDS):
        failures = await asyncio.gather(*calls, return_exceptions=True)
        await batcher.aclose()
    assert failures[0] is failures[1]
    assert client.sizes == [2]
    assert client.redirected == []


class UncancellableClient(FakeServer):
    """Server whose `open` suppresses its cancellation, and ends later."""

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
async def test_late_end_of_a_connection_attempt_is_ignored(broken: bool) -> None:  # noqa: FBT001 - a case
    """A call does not wait for an uncancellable driver, and the driver's late end has no effect."""
    client = UncancellableClient()
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.02))
    with (
        anyio.fail_after(PATIENCE_SECONDS),
        pytest.raises(StoreUnavailable, match="not sent within 20 ms"),
    ):
        await batcher.call(SCRIPT, ["a"], [], unchanged)
    client.broken = broken
    client.connected.set()
    with anyio.fail_after(PATIENCE_SECONDS):
        await batcher.aclose()
    client.broken = False
    assert await batcher_for(client).call(SCRIPT, ["b"], [], unchanged) == "b"
    await loop_turns()
    assert not batcher._recovery.unfinished


async def test_late_failure_is_not_logged_as_unretrieved() -> None:
    """A failure after the timeout is not reported as an exception that was never retrieved."""
    late: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    late.set_exception(Disconnected("closed"))
    batcher_for(FakeServer())._recovery._discard(late)
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
    del late
    asyncio.get_running_loop().set_exception_handler(None)
    assert reported == []


async def test_reply_wins_over_a_timeout_in_the_same_iteration() -> None:
    """A reply that has arrived counts, even if the loop was blocked past the timeout."""

    def busy(command: tuple[Any, ...]) -> Any:
        time.sleep(0.03)
        return command[3]

    client = FakeServer()
    client.reply_to = busy
    batcher = batcher_for(client, Timeouts(connect=10, operation=0.01))
    assert await batcher.call(SCRIPT, ["late"], [], unchanged) == "late"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (ReadOnlyError("replica"), "read_only"),
        # Replies of Redis 6.2 to a script, without and with `pcall` in it.
        (
            ResponseError(
                "Error running script (call to f_a7795298d463da90be77fbf3edd7343e32189f60): "
                "@user_script:763: @user_script: 763: -READONLY You can't write against a read "
                "only replica."
            ),
            "read_only",
        ),
        (
            ResponseError(
                "@user_script: 66: -READONLY You can't write against a read only replica."
            ),
            "read_only",
        ),
        (MasterDownError("Link with MASTER is down"), "stale_replica"),
        (AuthenticationError("Authentication required."), "authentication"),
    ],
)
async def test_reply_that_a_new_connection_may_fix_disconnects(reply: Exception, kind: str) -> None:
    """The host name may lead to a new primary, and the credentials may have changed."""
    client, lookups = FakeServer(), list[str]()
    client.reply_to = lambda _: reply

    async def relocate() -> None:
        lookups.append("primary")

    batcher = batcher_for(client, relocate=relocate)
    with pytest.raises(StoreError) as caught:
        await batcher.call(SCRIPT, ["a"], [], unchanged)
    await loop_turns()
    assert (caught.value.kind, lookups, client.connection) == (kind, ["primary"], None)
    client.reply_to = lambda command: command[3]
    assert await batcher.call(SCRIPT, ["b"], [], unchanged) == "b"
    assert client.opened == 2


async def test_rejected_script_disconnects() -> None:
    """A probe after a rejected one connects again, perhaps to another server."""
    client = FakeServer()
    batcher = batcher_for(client)
    await batcher.open(SCRIPT)
    client.load = lambda _: AuthenticationError("required")  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(AuthenticationError):
        await batcher.open(SCRIPT)
    assert client.connection is None


async def test_relocation_runs_once_at_a_time() -> None:
    """A failed node may have a successor; a failing or hanging lookup does not fail calls."""
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


async def test_call_from_another_event_loop_is_an_error() -> None:
    """A thread with an event loop of its own gets an error, and calls of the first one go on."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)
    waiting = call(batcher, "a")
    await loop_turns()

    async def use() -> None:
        with pytest.raises(ConfigError, match="run_coroutine_threadsafe"):
            batcher.call(SCRIPT, ["b"], [], unchanged)
        with pytest.raises(ConfigError, match="run_coroutine_threadsafe"):
            await batcher.open(SCRIPT)

    await asyncio.to_thread(lambda: asyncio.run(use()))
    client.release()
    assert await waiting == "a"


def test_calls_of_an_event_loop_that_ended_fail() -> None:
    """The next event loop works, and a call that was left in the previous one fails."""
    client = FakeServer(held=True)
    batcher = batcher_for(client)

    async def start() -> list[asyncio.Task[Any]]:
        # The last call is queued behind the pipelines in flight.
        calls = []
        for number in range(MAX_IN_FLIGHT + 1):
            calls.append(call(batcher, number))
            await loop_turns()
        return calls

    async def use() -> Any:
        client.release()
        return await batcher.call(SCRIPT, ["b"], [], unchanged)

    with contextlib.closing(asyncio.new_event_loop()) as previous:
        calls = previous.run_until_complete(start())
        assert asyncio.run(use()) == "b"
        for each in calls:
            with pytest.raises(StoreUnavailable, match="event loop of the call has ended"):
                previous.run_until_complete(each)
    assert asyncio.run(use()) == "b"
