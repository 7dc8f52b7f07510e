"""Lets a signal end work in order: what it opened is closed before the process ends."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal ended the work; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


async def interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    """Await work, and cancel it when a signal comes.

    Raises:
        Interrupted: One came, and the work has cleaned up.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    received: list[int] = []

    def stop(number: int) -> None:
        # Only once: a second signal must not cut short the cleaning up, which is bounded anyway.
        if not received and task is not None:
            task.cancel()
        received.append(number)

    for each in _SIGNALS:
        loop.add_signal_handler(each, stop, each)
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
