"""Scaling scenes: cost by processes, principals, limits, body sizes and store load."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from harness.check_rate import checks_per_second
from harness.contender_process import read_result, start
from harness.effort import Effort
from harness.lineup import BARE, CHECK, DEPENDENCY, MIDDLEWARE, Contender
from harness.policies import write
from harness.requests import PRINCIPALS, spread
from harness.results import OF_BARE, Figures, Scene
from harness.saturated import saturated
from harness.store import Store
from harness.throughput import PLENTY, Traffic, saturate

_HOT: Final = 1
_REQUESTS_PER_SECOND: Final = 1_000
"""Requests of a turn of the worker scene, for each second of effort."""
_FLOOD_LIMIT: Final = 10


def worker(store: Store, effort: Effort) -> Scene:
    """Measure a request's CPU in one process, with and without the limiter."""
    scene = Scene("worker", "CPU of one worker for a request, without server and sockets")
    for _ in range(effort.rounds):
        for contender in (BARE, MIDDLEWARE, DEPENDENCY):
            scene.add(contender.name, _request_cpu(store, contender, effort, PLENTY, PRINCIPALS))
        rejected = _request_cpu(store, MIDDLEWARE, effort, _FLOOD_LIMIT, 1)
        scene.add(f"{MIDDLEWARE.name}, rejected", rejected)
    scene.compare("us CPU/request", BARE.name)
    return scene


def _request_cpu(
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
        requests = max(1, round(effort.seconds * _REQUESTS_PER_SECOND))
        process = start(contender, "harness.request_process", [requests, principals], variables)
        return read_result(contender, process)


def processes(store: Store, effort: Effort) -> Scene:
    """Check in several processes that share the server's core."""
    scene = Scene("processes", "checks in several processes on one core, one store on the other")
    for count in (1, 2, 4, 8) * effort.rounds:
        found = checks_per_second(store, CHECK, effort, processes=count)
        scene.add(f"{count} processes", found)
    return scene


def principals(store: Store, effort: Effort) -> Scene:
    """Check 1 to `effort.many` principals."""
    scene = Scene("principals", "checks of 1 to a million principals")
    for count in (_HOT, PRINCIPALS, 100_000, effort.many):
        # Long enough to check each principal about once.
        longer = replace(effort, seconds=max(effort.seconds, min(count, effort.many) / 30_000))
        scene.add(
            f"{count:,} principals", checks_per_second(store, CHECK, longer, principals=count)
        )
    return scene


def hot(store: Store, effort: Effort) -> Scene:
    """Check one bucket from several processes, with prefetch and without."""
    scene = Scene("hot", "checks of one bucket in several processes, with prefetch and without")
    for count in (1, 2, 4) * effort.rounds:
        for name, prefetch in (("no prefetch", 0), ("prefetch of 1 %", 0.01)):
            found = checks_per_second(
                store, CHECK, effort, principals=_HOT, processes=count, prefetch=prefetch
            )
            scene.add(f"{count} processes, {name}", found)
    return scene


def limits(store: Store, effort: Effort) -> Scene:
    """Check 1 to 8 limits at a time."""
    scene = Scene("limits", "checks of several limits, 1,000 principals")
    for count in (1, 2, 3, 4, 8) * effort.rounds:
        scene.add(f"{count} limits", checks_per_second(store, CHECK, effort, limits=count))
    return scene


def bodies(store: Store, effort: Effort) -> Scene:
    """Serve requests with bodies of 0 to 100 kB, with and without the limiter."""
    scene = Scene("bodies", "requests with bodies of 0 to 100 kB, relative to bare")
    for size in (0, 1_000, 10_000, 100_000):
        sized = partial(spread, PRINCIPALS // 10, body_bytes=size)
        traffic = Traffic(store, requests=sized)
        for each in saturate((BARE, MIDDLEWARE), traffic, effort):
            bare, limited = (each.figures(one, BARE) for one in (BARE, MIDDLEWARE))
            figures = {name: limited[name] for name in ("requests/s", OF_BARE)}
            scene.add(f"{size:,} bytes", {"bare requests/s": bare["requests/s"], **figures})
    return scene


def store_alone(store: Store, effort: Effort) -> Scene:
    """Send prepared checks to the store as fast as it answers."""
    scene = Scene("store", "one store under saturation, one token bucket a check")
    for joined in (1, 4, 16, 64) * effort.rounds:
        scene.add(f"{joined} checks a call", saturated(store, effort, joined=joined))
    for _ in range(effort.rounds):
        scene.add("64 checks a call, one bucket", saturated(store, effort, joined=64, hot=True))
    return scene


GROWTH: Final[dict[str, Callable[[Store, Effort], Scene]]] = {
    "worker": worker,
    "processes": processes,
    "principals": principals,
    "hot": hot,
    "limits": limits,
    "bodies": bodies,
    "store": store_alone,
}
