"""Waits for something to become true, in place of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

from support import e2e_timeouts as timeouts

T = TypeVar("T")


def eventually(look: Callable[[], T], *, within: float, what: str) -> T:
    """Return what `look` returns as soon as it is true.

    Args:
        look: Is called again and again; an `AssertionError` of it counts as not yet.
        within: Seconds to go on.
        what: What is waited for, for the message.

    Raises:
        AssertionError: It did not become true; the message has what was seen last.
    """
    deadline = time.monotonic() + within
    seen: object = None
    while True:
        try:
            found = look()
        except AssertionError as error:
            seen = error
        else:
            if found:
                return found
            seen = found
        if time.monotonic() > deadline:
            raise AssertionError(f"expected within {within} s: {what}; seen last: {seen}")
        time.sleep(timeouts.POLL)
