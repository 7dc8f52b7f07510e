"""Calls one contender's check from many tasks; runs in that contender's own environment.

`python -m harness.checking MODULE SECONDS TASKS PRINCIPALS` prints one JSON object. It imports
nothing but the standard library and uvloop, which every environment has.
"""

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop

Check = Callable[[str], Awaitable[bool]]


async def measure(module: str, seconds: float, tasks: int, principals: int) -> dict[str, float]:
    """Return how many checks were made and let in, in how many seconds, and the CPU for it."""
    check: Check = await importlib.import_module(module).open_check()
    callers = [f"caller-{number}" for number in range(principals)]
    done = admitted = 0
    ends = 0.0

    async def repeat(number: int) -> None:
        nonlocal done, admitted
        while time.perf_counter() < ends:
            if await check(callers[number % principals]):
                admitted += 1
            done += 1
            number += tasks
            # A check of a synchronous client never gives way by itself.
            await asyncio.sleep(0)

    ends = time.perf_counter() + seconds / 4
    await asyncio.gather(*(repeat(number) for number in range(tasks)))
    warm, done, admitted = done, 0, 0
    worked, began = time.process_time(), time.perf_counter()
    ends = began + seconds
    await asyncio.gather(*(repeat(number) for number in range(tasks)))
    return {
        "checks": done,
        "warm": warm,
        "admitted": admitted,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - worked,
    }


def main() -> None:
    """Read the arguments, measure, and print."""
    module, seconds, tasks, principals = sys.argv[1:]
    loop = uvloop.new_event_loop()
    found = loop.run_until_complete(measure(module, float(seconds), int(tasks), int(principals)))
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    # Nothing is waited for: on Python 3.11 a cancellation can get lost in a driver's own waiting.
    os._exit(0)


if __name__ == "__main__":
    main()
