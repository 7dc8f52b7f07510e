"""Work that goes on beside the requests, kept alive and never failing unseen."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskSet:
    """Tasks of one owner.

    Args:
        log: Where a task that failed is told.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        # The event loop itself would let go of a task that nobody else keeps.
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin a task."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._log.error("background.failed", exc_info=error)

    async def aclose(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
