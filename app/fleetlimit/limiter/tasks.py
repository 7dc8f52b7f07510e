"""Background tasks that end by themselves: referenced until then, with failures logged."""

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

_log = logging.getLogger("fleetlimit")
Result = TypeVar("Result")


class TaskSet:
    """Set of background tasks of one owner."""

    def __init__(self) -> None:
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
            _log.error("background.failed", exc_info=error)

    async def wait(self) -> None:
        """Wait until the running tasks have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
