"""Entry point that calls an ASGI app without a server, and profiles the CPU time of a request.

`python -m harness.request_process MODULE REQUESTS PRINCIPALS` prints one JSON object. Times are CPU
times, which other processes on the machine affect little. The shares come from `cProfile`, which
overstates short functions.
"""

import asyncio
import cProfile
import importlib
import json
import pstats
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import uvloop

from harness.requests import api_key

CONNECTIONS: Final = 64
_TURNS: Final = 5
_BODY: Final = b'{"format": "csv", "rows": 100, "note": ""}'
_COMPONENTS: Final = {
    "fleetlimit/web/": "fleetlimit: web",
    "fleetlimit/identity/": "fleetlimit: identity",
    "fleetlimit/telemetry/": "fleetlimit: telemetry",
    "fleetlimit/stores/": "fleetlimit: store",
    "fleetlimit/": "fleetlimit: deciding",
    "fastapi/": "FastAPI, Starlette",
    "starlette/": "FastAPI, Starlette",
}


class Traffic:
    """Requests of several callers in turn, with the concurrency of the other scenes.

    Args:
        app: The ASGI app.
        principals: Number of callers.
    """

    def __init__(self, app: Any, principals: int) -> None:
        self._app = app
        self._scopes = [_scope(api_key(number)) for number in range(principals)]

    async def send(self, count: int) -> None:
        """Send `count` requests."""
        numbers = iter(range(count))
        await asyncio.gather(*(self._connection(numbers) for _ in range(CONNECTIONS)))

    async def _connection(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            scope = {**self._scopes[number % len(self._scopes)], "state": {}}
            # As a server does: one task for each request.
            await asyncio.create_task(self._app(scope, _receive, _send))


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": _BODY, "more_body": False}


async def _send(_message: Any) -> None:
    pass


def _scope(key: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 40_000),
        "scheme": "http",
        "method": "POST",
        "root_path": "",
        "path": "/exports",
        "raw_path": b"/exports",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"x-api-key", key.encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(_BODY)).encode()),
        ],
    }


async def measure(module: str, requests: int, principals: int) -> dict[str, Any]:
    """Return the lowest CPU time of a request in five turns, and the share of each component."""
    app = importlib.import_module(module).app
    async with app.router.lifespan_context(app):
        traffic = Traffic(app, principals)
        await traffic.send(requests)
        times = []
        for _ in range(_TURNS):
            began = time.process_time()
            await traffic.send(requests)
            times.append((time.process_time() - began) / requests)
        profile = cProfile.Profile()
        with profile:
            await traffic.send(requests)
    return {"us CPU/request": 1e6 * min(times), **_shares(pstats.Stats(profile))}


def _shares(stats: Any) -> dict[str, float]:
    """Return the CPU share of each component. A built-in function counts for its caller."""
    seconds: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in stats.stats.items():
        if file == "~":
            for (caller, _, _), (_, _, used, _) in callers.items():
                seconds[_component(caller)] += used
        else:
            seconds[_component(file)] += own
    return {f"share: {name}": used / seconds.total() for name, used in seconds.most_common()}


def _component(file: str) -> str:
    return next((name for path, name in _COMPONENTS.items() if f"/{path}" in file), "all else")


def main() -> None:
    """Read the arguments, measure, and print the result."""
    module, requests, principals = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(module, int(requests), int(principals)))
    sys.stdout.write("\n" + json.dumps(found))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
