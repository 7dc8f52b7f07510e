"""An answer is heard as soon as it is there, and who waits for it goes on after that."""

import asyncio
import contextvars
from typing import Any, cast

import pytest

from fleetlimit.stores.redis.batcher import Lane
from fleetlimit.stores.redis.client import Client, Timeouts
from fleetlimit.stores.redis.scripts import Script
from support.lane import FakeClient

SCRIPT = Script("take", "text", "text")


@pytest.fixture
def client() -> FakeClient:
    """Return a server that knows the script, and answers when it is let."""
    found = FakeClient(held=True)
    found.known.add(SCRIPT.sha)
    return found


@pytest.fixture
def lane(client: FakeClient) -> Lane:
    """Return the way to it."""
    return Lane(cast("Client", client), Timeouts(connect=10, operation=10))


async def test_all_answers_of_a_pipeline_are_heard_before_anybody_goes_on(
    client: FakeClient, lane: Lane
) -> None:
    """Those who waited go on one after the other, when all has been heard."""
    order: list[str] = []

    async def ask(name: str) -> None:
        await lane.call(SCRIPT, [name], [], str, lambda answer: order.append(f"{answer} is heard"))
        order.append(f"{name} goes on")

    asking = [asyncio.ensure_future(ask(name)) for name in "ab"]
    client.release()
    await asyncio.gather(*asking)
    assert order == ["a is heard", "b is heard", "a goes on", "b goes on"]


async def test_an_answer_is_heard_in_the_context_of_its_call(
    client: FakeClient, lane: Lane
) -> None:
    """What is logged and traced then belongs to the request that asked."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")
    found: dict[str, str] = {}

    async def ask(name: str) -> None:
        request.set(name)
        await lane.call(
            SCRIPT, [name], [], str, lambda answer: found.update({answer: request.get()})
        )

    client.release()
    await asyncio.gather(ask("a"), ask("b"))
    assert found == {"a": "a", "b": "b"}


async def test_who_fails_to_hear_an_answer_fails_alone(client: FakeClient, lane: Lane) -> None:
    """The error is the one's who waits, as it is; the others of the pipeline hear theirs."""

    def fail(answer: Any) -> None:
        raise LookupError(answer)

    client.release()
    failed = lane.call(SCRIPT, ["a"], [], str, fail)
    assert await lane.call(SCRIPT, ["b"], [], str, lambda _: None) == "b"
    with pytest.raises(LookupError, match="a"):
        await failed


async def test_who_has_gone_away_is_told_nothing(client: FakeClient, lane: Lane) -> None:
    """Nobody is told the answer to a call that was cancelled."""
    heard: list[str] = []
    gone = lane.call(SCRIPT, ["a"], [], str, heard.append)
    stays = lane.call(SCRIPT, ["b"], [], str, heard.append)
    await asyncio.sleep(0)
    gone.cancel()
    client.release()
    assert await stays == "b"
    assert heard == ["b"]
