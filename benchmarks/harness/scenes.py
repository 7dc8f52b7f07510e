"""The scenes that are measured, each a table of contenders and figures."""

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Final

from harness import lineup
from harness.calls import checks_per_second
from harness.effort import Effort
from harness.keys import bytes_per_principal
from harness.lineup import BARE, FLOOR, Company, Contender
from harness.requests import request
from harness.resident import resident
from harness.results import Scene
from harness.served import Traffic, beside, side_by_side, turns
from harness.sink import Sink
from harness.started import starts
from harness.store import Store

RATE: Final = "requests/s"
_LIMITED: Final = (lineup.MIDDLEWARE, lineup.DEPENDENCY)


def allow(store: Store, effort: Effort, company: Company) -> Scene:
    """Serve 1,000 callers who are all within their limits."""
    scene = Scene("allow", "allow path, 1,000 principals, 64 connections")
    contenders = (
        FLOOR,
        *company.ours(*_LIMITED),
        lineup.THREE,
        lineup.SERVED,
        *company.peers,
    )
    _beside(scene, BARE, contenders, Traffic(store), effort)
    return scene


def deny(store: Store, effort: Effort, company: Company) -> Scene:
    """Refuse one caller who is far over the limit."""
    scene = Scene("deny", "deny flood, one principal, 10 a minute")
    flood = Traffic(store, limit=10, requests=lambda: repeat(request(0)))
    _beside(scene, BARE, (*company.ours(*_LIMITED), *company.peers), flood, effort)
    return scene


def _beside(
    scene: Scene,
    base: Contender,
    contenders: tuple[Contender, ...],
    traffic: Traffic,
    effort: Effort,
) -> None:
    for contender in turns(contenders, effort.rounds):
        figures, others = beside(base, contender, traffic, effort)
        scene.add(base.name, figures)
        scene.add(contender.name, others)


def latency(store: Store, effort: Effort, company: Company) -> Scene:
    """Serve half of what saturates: each its own half, and all the half of the slowest."""
    scene = Scene("latency", "latency at half of the saturating load")
    contenders, traffic = (BARE, FLOOR, *company.ours(*_LIMITED), *company.peers), Traffic(store)
    with side_by_side(contenders, traffic, effort) as begin:
        most = begin()
        most.measure(effort.seconds)
        half = {each: most.figures(each)[RATE] / 2 for each in contenders}
        least = dict.fromkeys(half, min(half.values()))
        for _ in range(effort.rounds):
            own, alike = begin(), begin()
            own.measure(effort.seconds, half)
            alike.measure(effort.seconds, least)
            for each in contenders:
                same = alike.figures(each)
                same = {f"{name}, same load": same[name] for name in ("p50 ms", "p99 ms")}
                scene.add(each.name, own.figures(each) | same)
    return scene


def check(store: Store, effort: Effort, company: Company) -> Scene:
    """Call each one's own check from 256 tasks, without HTTP."""
    scene = Scene("check", "own check from 256 tasks, 1,000 principals, no HTTP")
    for contender in turns((FLOOR, *company.ours(lineup.CHECK), *company.peers), effort.rounds):
        scene.add(contender.name, checks_per_second(store, contender, effort))
    scene.compare("checks/s", FLOOR.name)
    return scene


def traces(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Trace one request of a hundred, and see what it costs."""
    scene = Scene("traces", "traces at 1 % sampling, sent to a collector")
    with Sink() as sink:
        endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        traced = replace(lineup.TRACED, variables=(*lineup.TRACED.variables, endpoint))
        _beside(scene, lineup.SERVED, (traced,), Traffic(store), effort)
    return scene


Measured = Callable[[Store, Effort, Company], Scene]
"""A scene that is measured in company, or alone."""

SCENES: Final[dict[str, Measured]] = {
    "allow": allow,
    "deny": deny,
    "latency": latency,
    "check": check,
    "traces": traces,
    "keys": bytes_per_principal,
    "start": starts,
    "resident": resident,
}
