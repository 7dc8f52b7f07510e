"""Entry point that calls one contender's check from many tasks, in that contender's environment.

`python -m harness.check_process MODULE SECONDS TASKS PRINCIPALS` prints one JSON object. It imports
only the standard library and uvloop, which every environment has.
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
    """Return the number of checks and of admitted checks, the seconds and the CPU seconds."""
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
            # The check of a synchronous client never yields to the event loop.
            await asyncio.sleep(0)

    ends = time.perf_counter() + seconds / 4
    await asyncio.gather(*(repeat(number) for number in range(tasks)))
    warm, done, admitted = done, 0, 0
    cpu_before, began = time.process_time(), time.perf_counter()
    ends = began + seconds
    await asyncio.gather(*(repeat(number) for number in range(tasks)))
    return {
        "checks": done,
        "warm": warm,
        "admitted": admitted,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu_before,
    }


def main() -> None:
    """Read the arguments, measure, and print the result."""
    module, seconds, tasks, principals = sys.argv[1:]
    loop = uvloop.new_event_loop()
    found = loop.run_until_complete(measure(module, float(seconds), int(tasks), int(principals)))
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    # Exit without closing clients: on Python 3.11 a driver can swallow a cancellation and hang.
    os._exit(0)


if __name__ == "__main__":
    main()
