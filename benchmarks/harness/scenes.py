"""Comparison scenes: each measures all contenders in one situation."""

import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from types import TracebackType
from typing import Final, Self

from harness import lineup
from harness.check_rate import checks_per_second
from harness.effort import Effort
from harness.footprint import bytes_per_principal, resident, starts
from harness.lineup import BARE, FLOOR, MIDDLEWARE, RAW, Company, Contender
from harness.requests import request, spread
from harness.results import ABOVE_BARE, CPU, OF_LOAD, Scene
from harness.store import Store
from harness.throughput import Traffic, below_saturation, record, saturate, turns

_LIMITED: Final = (MIDDLEWARE, lineup.DEPENDENCY)
CONNECTIONS: Final = (1, 4, 16, 64)
"""Connections of the scene `curve`."""
_CURVE_PEERS: Final = frozenset({"limits", "fastapi-limiter", "throttled-py"})
_BUSY_CALLERS: Final = 10
"""Callers of the scene `busy`."""
_BUSY: Final = ("server busy", "store busy", "load busy")
_PERCENTILES: Final = ("p99 ms of a round", "p50 ms", "p99 ms")
TASKS: Final = (1, 4)
"""Tasks of the scene `lonely`."""


def allow(store: Store, effort: Effort, company: Company) -> Scene:
    """Saturate each contender with 1,000 callers within their limits."""
    scene = Scene("allow", "requests within the limit, saturating, 1,000 principals")
    contenders = (BARE, FLOOR, *company.ours(*_LIMITED), lineup.THREE, *company.peers)
    record(scene, contenders, saturate(contenders, Traffic(store), effort))
    return scene


def deny(store: Store, effort: Effort, company: Company) -> Scene:
    """Saturate each contender with one caller far over the limit."""
    scene = Scene("deny", "requests over the limit, saturating, one principal, 10 a minute")
    contenders = (BARE, lineup.REFUSING, *company.ours(*_LIMITED), *company.peers)
    flood = Traffic(store, limit=10, requests=lambda: repeat(request(0)))
    record(scene, contenders, saturate(contenders, flood, effort))
    return scene


def half(store: Store, effort: Effort, company: Company) -> Scene:
    """Send each contender half of the load that saturates it."""
    scene = Scene("half", "each at half of its own maximum rate")
    contenders = _with_all_peers(company)
    rounds = below_saturation(contenders, Traffic(store), effort, lambda halves: halves)
    record(scene, contenders, rounds)
    return scene


def same(store: Store, effort: Effort, company: Company) -> Scene:
    """Send each contender half of the load that saturates the slowest."""
    scene = Scene("same", "all at half of the slowest contender's maximum rate")
    contenders = _with_all_peers(company)
    rounds = below_saturation(
        contenders,
        Traffic(store),
        effort,
        lambda halves: dict.fromkeys(halves, min(halves.values())),
    )
    record(scene, contenders, rounds)
    return scene


def _with_all_peers(company: Company) -> tuple[Contender, ...]:
    return (BARE, FLOOR, *company.ours(*_LIMITED), *company.peers)


def curve(store: Store, effort: Effort, company: Company) -> Scene:
    """Send all contenders half of the load that saturates the bare app, by connections."""
    scene = Scene("curve", "all at half of bare's own maximum rate, on 1 to 64 connections")
    peers = [each for each in company.peers if each.name in _CURVE_PEERS]
    contenders = (BARE, RAW, FLOOR, *company.ours(*_LIMITED), *peers)
    for connections in CONNECTIONS:
        found = Scene(scene.name, scene.title)
        _load_half_of_bare(found, contenders, Traffic(store, connections=connections), effort)
        found.compare(ABOVE_BARE, "limits")
        scene.include(found, f"{connections} connections")
    return scene


def busy(store: Store, effort: Effort, company: Company) -> Scene:
    """Send all contenders half of the load that saturates the bare app, of few callers."""
    scene = Scene("busy", f"all at half of bare's own maximum rate, {_BUSY_CALLERS} callers")
    peers = [each for each in company.peers if each.name in _CURVE_PEERS]
    ours = company.ours(MIDDLEWARE, lineup.PREFETCHING)
    contenders = (BARE, FLOOR, *ours, *peers)
    traffic = Traffic(store, requests=lambda: spread(_BUSY_CALLERS))
    _load_half_of_bare(scene, contenders, traffic, effort)
    scene.compare(ABOVE_BARE, "limits")
    return scene


def telemetry(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Measure the middleware with a part of its telemetry left out or added."""
    scene = Scene("telemetry", "parts of the telemetry, at half of bare's own maximum rate")
    with _TraceCollector() as collector:
        traced = collector.exporting(lineup.MIDDLEWARE_TRACED)
        contenders = (BARE, MIDDLEWARE, *lineup.TELEMETRY, traced)
        _load_half_of_bare(scene, contenders, Traffic(store), effort)
    scene.subtract(CPU, MIDDLEWARE.name)
    return scene


def _load_half_of_bare(
    scene: Scene, contenders: tuple[Contender, ...], traffic: Traffic, effort: Effort
) -> None:
    """Record the figures of all contenders at half of the bare app's maximum rate."""
    rounds = below_saturation(
        contenders, traffic, effort, lambda halves: dict.fromkeys(halves, halves[BARE])
    )
    record(scene, contenders, rounds)
    scene.keep("requests/s", OF_LOAD, CPU, "commands/request", *_BUSY, *_PERCENTILES)
    scene.subtract(CPU, BARE.name)


def check(store: Store, effort: Effort, company: Company) -> Scene:
    """Call each contender's own check from 256 tasks, without HTTP."""
    scene = Scene("check", "own check from 256 tasks, 1,000 principals, no HTTP")
    for contender in turns((FLOOR, *company.ours(lineup.CHECK), *company.peers), effort.rounds):
        scene.add(contender.name, checks_per_second(store, contender, effort))
    scene.compare("checks/s", FLOOR.name)
    return scene


def lonely(store: Store, effort: Effort, company: Company) -> Scene:
    """Call each contender's own check from 1 task and from 4, without HTTP."""
    scene = Scene("lonely", "own check from 1 task and from 4, 1,000 principals, no HTTP")
    contenders = (RAW, FLOOR, *company.ours(lineup.CHECK), *company.peers)
    for tasks in TASKS:
        found = Scene(scene.name, scene.title)
        for contender in turns(contenders, effort.rounds):
            found.add(contender.name, checks_per_second(store, contender, effort, tasks=tasks))
        found.subtract("us CPU/check", RAW.name)
        scene.include(found, f"{tasks} tasks")
    return scene


def traces(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Measure the cost of tracing one request in a hundred."""
    scene = Scene("traces", "traces at 1 % sampling, sent to a collector")
    with _TraceCollector() as collector:
        contenders = (lineup.SERVED, collector.exporting(lineup.TRACED))
        record(scene, contenders, saturate(contenders, Traffic(store), effort))
    return scene


class _AcceptAndDiscard(BaseHTTPRequestHandler):
    """Answers each POST with an empty 200."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Log nothing."""


class _TraceCollector:
    """An OTLP collector on a free port of 127.0.0.1 that discards every trace."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _AcceptAndDiscard)
        self._url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def exporting(self, contender: Contender) -> Contender:
        """Return the contender with this collector as the receiver of its traces."""
        endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", self._url)
        return replace(contender, variables=(*contender.variables, endpoint))


Measure = Callable[[Store, Effort, Company], Scene]
"""A function that measures one scene."""

SCENES: Final[dict[str, Measure]] = {
    "half": half,
    "same": same,
    "allow": allow,
    "deny": deny,
    "curve": curve,
    "busy": busy,
    "check": check,
    "lonely": lonely,
    "traces": traces,
    "telemetry": telemetry,
    "keys": bytes_per_principal,
    "start": starts,
    "resident": resident,
}
