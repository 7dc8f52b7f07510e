"""Event loop that a limiter belongs to.

Futures, tasks and connections belong to one event loop. In another one they raise obscure errors,
or wait forever.
"""

import asyncio
from threading import get_ident

from fleetlimit.errors import ConfigError


def require_ended(loop: asyncio.AbstractEventLoop | None) -> None:
    """Check that the event loop of a limiter or its store has ended.

    Raises:
        ConfigError: It is running, in another thread.
    """
    if loop is not None and loop.is_running():
        raise ConfigError(
            "this limiter belongs to the event loop that started it, which is running in another "
            "thread: call it there, with asyncio.run_coroutine_threadsafe, or create a Fleetlimit "
            "for this event loop"
        )


class OwnLoop:
    """Event loop that a limiter belongs to: the first one that used it, or one after its end.

    Starlette's `TestClient` without a lifespan runs each request in its own event loop.
    """

    __slots__ = ("_loop", "thread_id")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread_id = 0
        """Identifier of the loop's thread. A check compares it: before Python 3.12
        `asyncio.get_running_loop` makes a system call."""

    def require(self) -> bool:
        """Require the limiter's event loop, and return whether it replaces one that has ended.

        Raises:
            ConfigError: The limiter's event loop is running in another thread.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return False
        require_ended(self._loop)
        ended, self._loop = self._loop, loop
        self.thread_id = get_ident()
        return ended is not None
