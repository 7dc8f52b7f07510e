"""Does something again and again beside the requests, until it is told to stop."""

import asyncio
from collections.abc import Awaitable, Callable

from fleetlimit.limiter.ports import Sleep


class PeriodicTask:
    """Work that is done after each pause.

    Args:
        work: What to do; raises nothing.
        seconds: The pause, before the first time as well.
        sleep: How to wait.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], seconds: float, sleep: Sleep) -> None:
        self._work = work
        self._seconds = seconds
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with the first pause."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self._sleep(self._seconds)
            await self._work()

    async def stop(self) -> bool:
        """Stop, in the middle of the work if need be, and return whether it had been started."""
        if self._task is None:
            return False
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None
        return True
