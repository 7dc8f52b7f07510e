"""Signal handling: SIGINT, SIGTERM and SIGHUP cancel the run, which then cleans up."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal cancelled the run; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine, and cancel it on a signal.

    Raises:
        Interrupted: A signal was received, and the coroutine has cleaned up.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    received: list[int] = []

    def stop(number: int) -> None:
        # A second signal must not interrupt the clean-up, whose duration is bounded.
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
