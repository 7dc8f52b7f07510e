"""Entry point that makes a number of checks, one after the other, for a count of instructions.

`python -m harness.counted_checks MODULE CHECKS` imports only the standard library and uvloop, which
every environment has.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Callable

import uvloop

_CALLERS = 500
_WARM_CHECKS = 2 * _CALLERS
"""Fills the caches, and those of the interpreter for its bytecode."""


async def check_each(module: str, checks: int) -> None:
    """Make checks after those that warm up.

    Raises:
        RuntimeError: A check was rejected, or decided without the store.
    """
    check: Callable[[str], Awaitable[bool]] = await importlib.import_module(module).open_check()
    for number in range(_WARM_CHECKS + checks):
        if not await check(f"caller-{number % _CALLERS}"):
            raise RuntimeError(f"check {number} was rejected, or decided without the store")
        # The check of a synchronous client never yields to the event loop.
        await asyncio.sleep(0)


def main() -> None:
    """Read the arguments, and check."""
    module, checks = sys.argv[1:]
    uvloop.new_event_loop().run_until_complete(check_each(module, int(checks)))
    # Exit without closing clients, whose instructions would count too.
    os._exit(0)


if __name__ == "__main__":
    main()
