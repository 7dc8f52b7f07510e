"""What one worker's time goes to, in a process without a server."""

import tempfile
from pathlib import Path
from typing import Final

from harness.apart import answer, start
from harness.effort import Effort
from harness.lineup import BARE, DEPENDENCY, MIDDLEWARE, Contender
from harness.policies import write
from harness.requests import PRINCIPALS
from harness.results import Figures, Scene
from harness.served import PLENTY
from harness.store import Store

_REQUESTS_A_SECOND: Final = 1_000
_FLOOD: Final = 10


def worker(store: Store, effort: Effort) -> Scene:
    """Take the time of a request apart, with and without the limiter."""
    scene = Scene("worker", "CPU of one worker for a request, without server and sockets")
    for _ in range(effort.rounds):
        for contender in (BARE, MIDDLEWARE, DEPENDENCY):
            scene.add(contender.name, _taken(store, contender, effort, PLENTY, PRINCIPALS))
        refused = _taken(store, MIDDLEWARE, effort, _FLOOD, 1)
        scene.add(f"{MIDDLEWARE.name}, refused", refused)
    scene.compare("us CPU/request", BARE.name)
    return scene


def _taken(
    store: Store, contender: Contender, effort: Effort, limit: int, principals: int
) -> Figures:
    store.clear()
    with tempfile.TemporaryDirectory(prefix="fleetlimit-bench-") as folder:
        files = write(Path(folder), limit=limit, principals=principals)
        variables = {
            "BENCH_LIMIT": str(limit),
            "FLEETLIMIT_STORE": store.url,
            "FLEETLIMIT_KEY_SECRET": "a secret of the benchmark",
            "FLEETLIMIT_POLICIES": str(files[contender.policies or "one"]),
        }
        requests = max(1, round(effort.seconds * _REQUESTS_A_SECOND))
        process = start(contender, "harness.within", [requests, principals], variables)
        return answer(contender, process)
