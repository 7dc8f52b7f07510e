"""Count of Python calls in one warm check: `python benchmarks/hops.py`.

The count is a measure of readability, not of speed: how many functions, in how many files, a reader
steps through to follow one `Limiter.check` on a Redis store.

Counting rule: every function call and every resumption of a coroutine in a file of the package,
from the call of `check` until it returns its decision, callbacks of the event loop included. A move
is a pair of consecutive calls in different files. The limiter has no observers.
"""

import asyncio
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer

import fleetlimit
from fleetlimit import Limiter, Policy, PolicySet
from fleetlimit.core.keys import KeyScheme
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore

_PACKAGE: Final = Path(fleetlimit.__file__).parent
_WARM_CHECKS: Final = 20
"""More than enough to fill every cache and to open the connection."""


def main(
    each: Annotated[bool, typer.Option("--each", help="Print every call in its order.")] = False,
) -> None:
    """Count the calls, the files and the moves of one check."""
    with EmbeddedValkey() as server:
        calls = asyncio.run(_calls_of_a_check(server.url))
    if each:
        for file, function in calls:
            typer.echo(f"{file:34}{function}")
    files = [file for file, _ in calls]
    moves = sum(before != after for before, after in pairwise(files))
    typer.echo(f"{len(files)} calls in {len(set(files))} files with {moves} moves")


async def _calls_of_a_check(url: str) -> list[tuple[str, str]]:
    """Return the file and the function of each call."""
    keys = KeyScheme()
    limiter = Limiter(RedisStore(url, keys), local=MemoryStore(), key_scheme=keys)
    limiter.active_policies.replace(PolicySet([Policy("exports", "1000/minute")]))
    await limiter.start()
    for _ in range(_WARM_CHECKS):
        await limiter.check("exports", principal="alice")
    calls: list[tuple[str, str]] = []

    def record(frame: FrameType, event: str, _argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(_PACKAGE):
            calls.append((str(file.relative_to(_PACKAGE)), frame.f_code.co_qualname))

    sys.setprofile(record)
    try:
        await limiter.check("exports", principal="alice")
    finally:
        sys.setprofile(None)
    await limiter.aclose()
    return calls


if __name__ == "__main__":
    typer.run(main)
