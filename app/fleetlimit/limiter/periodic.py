"""Periodic background task: the only background loop of the package.

A failure is logged, and the loop continues after the next pause. A heartbeat, for example, that
ended at its first error would remove the replica from the membership until the process restarts.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from fleetlimit.limiter.ports import Sleep

_log = logging.getLogger("fleetlimit")
DONE: Final = object()
"""Return value of an operation that ends its task."""
STOP_SECONDS: Final = 5.0
"""Bound of `PeriodicTask.stop`: above the usual store timeouts, and far below the 30 s that
Kubernetes gives a pod to terminate."""


class PeriodicTask:
    """Runs an operation after each pause until it is stopped.

    Args:
        operation: Async function to run. An exception is logged; `DONE` ends the task.
        seconds: Pause before each run.
        failure_event: Name of the log event of an exception.
        immediate: Whether the first run comes without a pause.
        sleep: Async function that pauses for a number of seconds.
        stop_seconds: Bound of `stop`.
    """

    def __init__(
        self,
        operation: Callable[[], Awaitable[object]],
        seconds: float,
        *,
        failure_event: str,
        immediate: bool = False,
        sleep: Sleep = asyncio.sleep,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._operation = operation
        self._seconds = seconds
        self._failure_event = failure_event
        self._immediate = immediate
        self._sleep = sleep
        self._stop_seconds = stop_seconds
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the task was started and has neither ended by itself nor been stopped."""
        return self._task is not None

    def start(self) -> None:
        """Start the task, unless it is running in an event loop that is not closed.

        Starlette's `TestClient` without a lifespan runs each request in its own event loop. The
        task runs in an empty context: a request may start it, and its events are not of the
        request's trace.
        """
        if self._task is None or self._task.get_loop().is_closed():
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), context=contextvars.Context())

    async def _run(self) -> None:
        task = asyncio.current_task()
        pause = not self._immediate
        while self._is_current(task):
            if pause:
                await self._sleep(self._seconds)
            pause = True
            try:
                result = await self._operation()
            except Exception:  # noqa: BLE001 - the next run may succeed
                _log.exception(self._failure_event)
            else:
                if result is DONE and self._task is task:
                    self._task = None

    def _is_current(self, task: asyncio.Task[None] | None) -> bool:
        """Return whether a task is the running one and is not to end.

        Without the second condition the loop would continue when a driver has swallowed the
        cancellation at the end of the event loop.
        """
        return task is not None and self._task is task and not task.cancelling()

    async def stop(self) -> bool:
        """Cancel the task, in the middle of a run if need be, and wait until it has ended.

        Returns:
            Whether the task was running.
        """
        task, self._task = self._task, None
        if task is None or task.get_loop().is_closed():
            return False
        task.cancel()
        _, pending = await asyncio.wait({task}, timeout=self._stop_seconds)
        if pending:
            _log.error("periodic.not_stopped task=%s", self._failure_event)
        return True
