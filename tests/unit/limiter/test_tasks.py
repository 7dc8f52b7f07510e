"""Background tasks of one owner."""

import asyncio
import contextvars

import pytest

from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW
from fleetlimit.limiter.tasks import TaskSet


async def test_failed_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged with its traceback, and does not propagate."""

    async def fail() -> None:
        raise LookupError("gone")

    tasks = TaskSet()
    tasks.spawn(fail())
    await tasks.wait()
    assert caplog.messages == ["background.failed"]
    assert "LookupError: gone" in caplog.text


async def test_failures_of_many_tasks_are_sampled(caplog: pytest.LogCaptureFixture) -> None:
    """Requests start such tasks, so the first failures are logged, and the others counted."""

    async def fail() -> None:
        raise LookupError("gone")

    tasks = TaskSet()
    for _ in range(LINES_PER_WINDOW + 2):
        tasks.spawn(fail())
    await tasks.wait()
    assert caplog.messages == [
        *["background.failed"] * LINES_PER_WINDOW,
        "background.failed.suppressed error=LookupError suppressed=2",
    ]


async def test_cancelled_task_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A task that is cancelled, as at the end of the event loop, has not failed."""
    tasks = TaskSet()
    task = tasks.spawn(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await tasks.wait()
    assert task.cancelled()
    assert not caplog.messages


async def test_wait_returns_when_all_tasks_have_ended() -> None:
    """`wait` returns after the last running task, and at once without tasks."""
    end = asyncio.Event()
    ended: list[int] = []

    async def work(number: int) -> None:
        await end.wait()
        ended.append(number)

    tasks = TaskSet()
    await tasks.wait()
    for number in (1, 2):
        tasks.spawn(work(number))
    asyncio.get_running_loop().call_soon(end.set)
    await tasks.wait()
    assert ended == [1, 2]


async def test_task_in_an_empty_context_has_nothing_of_the_request() -> None:
    """A task that outlives the request that starts it does not belong to the request's trace."""
    requested = contextvars.ContextVar("requested", default="nothing")
    requested.set("a request")
    seen: list[str] = []

    async def work() -> None:
        seen.append(requested.get())

    tasks = TaskSet()
    tasks.spawn(work())
    tasks.spawn(work(), context=contextvars.Context())
    await tasks.wait()
    assert seen == ["a request", "nothing"]
