"""Background tasks of one owner."""

import asyncio
import contextvars
import logging

import pytest

from fleetlimit.bootstrap.tasks import TaskSet
from support.eventually import eventually_async


async def test_failed_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged with its traceback, and does not propagate."""

    async def fail() -> None:
        raise LookupError("gone")

    tasks = TaskSet(logging.getLogger("fleetlimit"))
    tasks.spawn(fail())
    await eventually_async(lambda: caplog.messages)
    await tasks.aclose()
    assert caplog.messages == ["background.failed"]
    assert "LookupError: gone" in caplog.text


async def test_task_runs_in_an_empty_context(caplog: pytest.LogCaptureFixture) -> None:
    """A task that a request has started does not belong to the request's trace."""
    requested = contextvars.ContextVar("requested", default="nothing")
    requested.set("a request")
    seen: list[str] = []

    async def work() -> None:
        seen.append(requested.get())

    tasks = TaskSet(logging.getLogger("fleetlimit"))
    tasks.spawn(work())
    await eventually_async(lambda: seen)
    await tasks.aclose()
    assert seen == ["nothing"]
    assert caplog.messages == []


async def test_aclose_cancels_running_tasks(caplog: pytest.LogCaptureFixture) -> None:
    """Running tasks are cancelled and awaited; a cancellation is not logged."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks = TaskSet(logging.getLogger("fleetlimit"))
    tasks.spawn(work())
    await asyncio.sleep(0)
    await tasks.aclose()
    assert ended.is_set()
    assert not caplog.messages
