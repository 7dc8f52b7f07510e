"""Polling until a condition holds, in place of a fixed sleep."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

from support import e2e_timeouts as timeouts

Found = TypeVar("Found")

PATIENCE_SECONDS: Final = 180.0
"""Time limit of a wait for a task or a local process. Only a failing test waits so long."""
LOCAL_POLL_S: Final = 0.02
"""Interval between two polls of a process of this machine."""


def eventually(
    condition: Callable[[], Found], *, within: float, what: str, poll_s: float = timeouts.POLL
) -> Found:
    """Return the first true result of a function, blocking the thread until then.

    Args:
        condition: Function to poll. Its `AssertionError` counts as a false result.
        within: Time limit, in seconds.
        what: Condition, for the error message.
        poll_s: Polling interval, in seconds.

    Raises:
        AssertionError: The result was not true in time; the message has the last one.
    """
    deadline = time.monotonic() + within
    seen: object = None
    while True:
        try:
            found = condition()
        except AssertionError as error:
            seen = error
        else:
            if found:
                return found
            seen = found
        _check_deadline(deadline, f"within {within} s: {what}; seen last: {seen}")
        time.sleep(poll_s)


@overload
async def eventually_async(
    condition: Callable[[], Awaitable[Found | None]], within: float = PATIENCE_SECONDS
) -> Found: ...


@overload
async def eventually_async(
    condition: Callable[[], Found | None], within: float = PATIENCE_SECONDS
) -> Found: ...


async def eventually_async(condition: Callable[[], Any], within: float = PATIENCE_SECONDS) -> Any:
    """Return the first true result of a function or coroutine function, without blocking the loop.

    Args:
        condition: Function to poll.
        within: Time limit, in seconds.

    Raises:
        AssertionError: The result was not true in time; the message has the source of the function.
    """
    deadline = time.monotonic() + within
    while True:
        seen = condition()
        found = await seen if inspect.isawaitable(seen) else seen
        if found:
            return found
        _check_deadline(deadline, f"within {within} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(LOCAL_POLL_S)


def _check_deadline(deadline: float, expected: str) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(f"expected {expected}")
