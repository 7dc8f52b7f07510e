"""How cost grows: with processes, principals, limits, bodies, and with what the store is asked."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from harness.calls import checks_per_second
from harness.effort import Effort
from harness.lineup import BARE, CHECK, MIDDLEWARE
from harness.requests import PRINCIPALS, spread
from harness.results import Scene
from harness.saturated import saturated
from harness.served import Traffic, beside
from harness.store import Store
from harness.worker import worker

_HOT: Final = 1


def processes(store: Store, effort: Effort) -> Scene:
    """Check in several processes that share the server's core."""
    scene = Scene("processes", "checks in several processes on one core, one store on the other")
    for count in (1, 2, 4, 8) * effort.rounds:
        found = checks_per_second(store, CHECK, effort, processes=count)
        scene.add(f"{count} processes", found)
    return scene


def principals(store: Store, effort: Effort) -> Scene:
    """Check more and more callers."""
    scene = Scene("principals", "checks of more and more principals")
    for count in (_HOT, PRINCIPALS, 100_000, effort.many):
        # As many seconds as it takes to see each of them about once.
        longer = replace(effort, seconds=max(effort.seconds, min(count, effort.many) / 30_000))
        scene.add(
            f"{count:,} principals", checks_per_second(store, CHECK, longer, principals=count)
        )
    return scene


def hot(store: Store, effort: Effort) -> Scene:
    """Check the one bucket that all share, asking for each check and in slices."""
    scene = Scene("hot", "checks of one bucket in several processes, with a lease and without")
    for count in (1, 2, 4) * effort.rounds:
        for name, lease in (("without", 0), ("with a lease of 1 %", 0.01)):
            found = checks_per_second(
                store, CHECK, effort, principals=_HOT, processes=count, lease=lease
            )
            scene.add(f"{count} processes, {name}", found)
    return scene


def limits(store: Store, effort: Effort) -> Scene:
    """Check more and more limits at a time."""
    scene = Scene("limits", "checks of several limits, 1,000 principals")
    for count in (1, 2, 3, 4, 8) * effort.rounds:
        scene.add(f"{count} limits", checks_per_second(store, CHECK, effort, limits=count))
    return scene


def bodies(store: Store, effort: Effort) -> Scene:
    """Serve larger and larger requests, with and without the limiter."""
    scene = Scene("bodies", "requests with larger and larger bodies, of bare")
    for size in (0, 1_000, 10_000, 100_000) * effort.rounds:
        sized = partial(spread, PRINCIPALS // 10, body_bytes=size)
        traffic = Traffic(store, requests=sized)
        bare, limited = beside(BARE, MIDDLEWARE, traffic, effort)
        figures = {"bare requests/s": bare["requests/s"], "requests/s": limited["requests/s"]}
        figures["of bare"] = limited["of bare"]
        scene.add(f"{size:,} bytes", figures)
    return scene


def store_alone(store: Store, effort: Effort) -> Scene:
    """Ask the store for all that it can decide."""
    scene = Scene("store", "one store asked without a pause, one token bucket a check")
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
