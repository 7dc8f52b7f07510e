"""The periodic task: pauses, failures, and an end within a bound."""

import asyncio
import contextlib
import contextvars
import logging

import pytest

from fleetlimit.limiter.periodic import DONE, PeriodicTask
from support.eventually import PATIENCE_SECONDS
from support.limiter import Journal, ManualSleep


class Operation:
    """An operation that records its runs and returns or raises what a test has put."""

    def __init__(self) -> None:
        self.runs: Journal[int] = Journal()
        self.results: list[object] = []

    async def __call__(self) -> object:
        """Run once."""
        self.runs.append(len(self.runs.entries) + 1)
        result = self.results.pop(0) if self.results else None
        if isinstance(result, Exception):
            raise result
        return result

    async def wait_for_runs(self, count: int) -> None:
        """Wait until the operation has run this many times in all."""
        await self.runs.wait_until(lambda runs: len(runs) >= count)


def periodic(operation: Operation, sleep: ManualSleep, *, immediate: bool = False) -> PeriodicTask:
    return PeriodicTask(
        operation, 0.25, failure_event="operation.failed", immediate=immediate, sleep=sleep
    )


async def test_periodic_task_pauses_before_each_run() -> None:
    """Without `immediate` the first run follows the first pause."""
    operation, sleep = Operation(), ManualSleep()
    task = periodic(operation, sleep)
    task.start()
    for run in (1, 2):
        await sleep.wait_for_calls(run)
        assert len(operation.runs.entries) == run - 1
        sleep.finish()
        await operation.wait_for_runs(run)
    assert await task.stop()
    assert set(sleep.requested.entries) == {0.25}


async def test_periodic_task_runs_in_an_empty_context() -> None:
    """The trace of the request that starts a task is not the trace of its runs."""
    requested = contextvars.ContextVar("requested", default="nothing")
    seen: Journal[str] = Journal()

    async def run() -> None:
        seen.append(requested.get())

    requested.set("a request")
    task = PeriodicTask(run, 0.25, failure_event="failed", immediate=True, sleep=ManualSleep())
    task.start()
    await seen.wait_until(lambda entries: entries == ["nothing"])
    await task.stop()


async def test_periodic_task_runs_at_once_when_immediate() -> None:
    """With `immediate` the first run has no pause before it, and the second has."""
    operation, sleep = Operation(), ManualSleep()
    task = periodic(operation, sleep, immediate=True)
    task.start()
    await operation.wait_for_runs(1)
    await sleep.wait_for_calls(1)
    assert len(operation.runs.entries) == 1
    await task.stop()


async def test_periodic_task_logs_a_failure_and_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exception ends one run and not the task."""
    operation, sleep = Operation(), ManualSleep()
    operation.results = [RuntimeError("broken"), ValueError("broken too"), None]
    task = periodic(operation, sleep, immediate=True)
    task.start()
    for run in (1, 2):
        await sleep.wait_for_calls(run)
        sleep.finish()
    await operation.wait_for_runs(3)
    assert task.running
    await task.stop()
    failures = [(each.levelno, each.message) for each in caplog.records]
    assert failures == [(logging.ERROR, "operation.failed")] * 2
    assert all(each.exc_info for each in caplog.records)


async def test_periodic_task_ends_by_itself_and_starts_again() -> None:
    """`DONE` ends the task; a later `start` begins with the pause again."""
    operation, sleep = Operation(), ManualSleep()
    operation.results = [DONE, DONE]
    task = periodic(operation, sleep)
    for run in (1, 2):
        task.start()
        assert task.running
        await sleep.wait_for_calls(run)
        sleep.finish()
        await operation.wait_for_runs(run)
        await asyncio.sleep(0)
        assert not task.running
    assert not await task.stop()


async def test_periodic_task_is_started_once() -> None:
    """A second `start` of a running task does nothing."""
    operation, sleep = Operation(), ManualSleep()
    task = periodic(operation, sleep)
    before = asyncio.all_tasks()
    task.start()
    task.start()
    assert len(asyncio.all_tasks() - before) == 1
    await task.stop()


async def test_periodic_task_stops_in_a_pause_and_in_a_run() -> None:
    """`stop` waits for neither; a task that was not started has nothing to stop."""
    operation, sleep = Operation(), ManualSleep()
    task = periodic(operation, sleep)
    before = asyncio.all_tasks()
    assert not await task.stop()
    task.start()
    await sleep.wait_for_calls(1)
    assert await task.stop()
    assert not task.running
    assert asyncio.all_tasks() == before

    started = asyncio.Event()

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    task = PeriodicTask(endless, 1, failure_event="endless.failed", immediate=True)
    task.start()
    await started.wait()
    assert await task.stop()
    assert asyncio.all_tasks() == before


async def test_periodic_task_stops_when_a_run_swallows_the_cancellation() -> None:
    """A driver that catches `CancelledError` and returns does not keep the loop alive."""
    runs: list[int] = []
    started = asyncio.Event()

    async def swallowing() -> None:
        runs.append(len(runs))
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    task = PeriodicTask(swallowing, 0, failure_event="swallowing.failed", immediate=True)
    task.start()
    await started.wait()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await task.stop()
    assert runs == [0]
    assert asyncio.all_tasks() == before


async def test_periodic_task_ends_when_its_cancellation_is_swallowed() -> None:
    """A cancellation from elsewhere, as at the end of an event loop, ends the loop, too."""
    started = asyncio.Event()

    async def swallowing() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    PeriodicTask(swallowing, 0, failure_event="swallowing.failed", immediate=True).start()
    await started.wait()
    (task,) = asyncio.all_tasks() - before
    task.cancel()
    await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
    assert task.done()


async def test_periodic_task_stop_has_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    """A run that ignores its cancellation is left behind, and a line in the log says so."""
    started, release = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    before = asyncio.all_tasks()
    task = PeriodicTask(
        stubborn, 1, failure_event="stubborn.failed", immediate=True, stop_seconds=0.01
    )
    task.start()
    await started.wait()
    (left,) = asyncio.all_tasks() - before
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await task.stop()
    assert not task.running
    assert [each.getMessage() for each in caplog.records] == [
        "periodic.not_stopped task=stubborn.failed"
    ]
    release.set()
    await asyncio.wait({left}, timeout=PATIENCE_SECONDS)
    assert left.done()
