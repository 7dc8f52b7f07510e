"""Background tasks that end by themselves: referenced until then, with failures logged."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.failure_log import FailureLog

Result = TypeVar("Result")


class TaskSet:
    """Set of background tasks of one owner. The log of their failures is sampled."""

    def __init__(self) -> None:
        self._failure_log = FailureLog(MonotonicClock())
        # The event loop holds tasks only weakly: without a reference they may be collected.
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(
        self, coroutine: Coroutine[Any, Any, Result], *, context: Context | None = None
    ) -> asyncio.Task[Result]:
        """Start a task and return it.

        Args:
            coroutine: The work.
            context: Context of the task; by default the current one, with its trace.
        """
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failure_log.write("background.failed", error)

    async def wait(self) -> None:
        """Wait until the running tasks have ended, and log the number of suppressed failures."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._failure_log.close()
