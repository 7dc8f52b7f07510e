"""Event loop that a limiter, or a store, belongs to.

Futures, tasks and connections belong to one event loop. In another one they raise obscure errors,
or wait forever.
"""

import asyncio
import os
from collections.abc import Callable
from threading import get_ident

from fleetlimit.errors import ConfigError


class OwnLoop:
    """Event loop that a limiter belongs to: the first one that used it, or one after its end.

    Starlette's `TestClient` without a lifespan runs each request in its own event loop.

    Attributes:
        loop: The event loop; None before the first use.
        thread_id: Identifier of the loop's thread. A check compares it: before Python 3.12
            `asyncio.get_running_loop` makes a system call.
        on_ended: Callback with an event loop that has ended, when the next one replaces it.
    """

    __slots__ = ("_loop_and_pid", "loop", "on_ended", "thread_id")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread_id = 0
        self._loop_and_pid: tuple[asyncio.AbstractEventLoop | None, int] = None, 0
        self.on_ended: Callable[[asyncio.AbstractEventLoop], None] | None = None

    def require(self) -> None:
        """Require this event loop to be the running one, or replace it if it has ended.

        Raises:
            ConfigError: It is running, in another thread.
        """
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return
        ended = self.loop
        if ended is not None and ended.is_running():
            raise ConfigError(
                "this limiter belongs to the event loop that started it, which is running in "
                "another thread: call it there, with asyncio.run_coroutine_threadsafe, or create "
                "a Fleetlimit for this event loop"
            )
        # Together: another thread must not see one without the other.
        self._loop_and_pid = loop, os.getpid()
        self.loop = loop
        self.thread_id = get_ident()
        if ended is not None and self.on_ended is not None:
            self.on_ended(ended)

    @property
    def running(self) -> asyncio.AbstractEventLoop | None:
        """The event loop if it is running, for calls from another thread; else None.

        Raises:
            ConfigError: This process was forked after the start: it has neither the loop's thread
                nor connections of its own.
        """
        loop, pid = self._loop_and_pid
        if loop is None or not loop.is_running():
            return None
        if pid != os.getpid():
            raise ConfigError(
                "this process was forked after the limiter had started: start it in the worker "
                "process, with Celery in a function that is connected to worker_process_init"
            )
        return loop
