"""Tasks beside the requests."""

import asyncio
import logging

import pytest

from fleetlimit.bootstrap.tasks import TaskSet
from support.server import eventually


async def test_a_task_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged with its traceback, and hurts nobody."""

    async def fail() -> None:
        raise LookupError("gone")

    background = TaskSet(logging.getLogger("fleetlimit"))
    background.spawn(fail())
    await eventually(lambda: caplog.messages)
    await background.aclose()
    assert caplog.messages == ["background.failed"]
    assert "LookupError: gone" in caplog.text


async def test_closing_ends_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    """What still runs is cancelled and waited for; that is no failure."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    background = TaskSet(logging.getLogger("fleetlimit"))
    background.spawn(work())
    await asyncio.sleep(0)
    await background.aclose()
    assert ended.is_set()
    assert not caplog.messages
