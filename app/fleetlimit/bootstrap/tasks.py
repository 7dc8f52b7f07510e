"""Background tasks of one owner, referenced until they end, with failures logged."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any


class TaskSet:
    """Set of background tasks.

    Args:
        log: Logger for the exceptions of failed tasks.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        # The event loop holds tasks only weakly: without a reference they may be collected.
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a task in an empty context: it outlives the request that may start it."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._log.error("background.failed", exc_info=error)

    async def aclose(self) -> None:
        """Cancel the running tasks, and wait until they have ended."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
