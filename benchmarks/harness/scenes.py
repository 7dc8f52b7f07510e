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
from harness.lineup import BARE, FLOOR, Company, Contender
from harness.requests import request
from harness.results import Scene
from harness.store import Store
from harness.throughput import Traffic, measure_pair, side_by_side, turns

RATE: Final = "requests/s"
_LIMITED: Final = (lineup.MIDDLEWARE, lineup.DEPENDENCY)


def allow(store: Store, effort: Effort, company: Company) -> Scene:
    """Serve 1,000 callers within their limits."""
    scene = Scene("allow", "allow path, 1,000 principals, 64 connections")
    contenders = (
        FLOOR,
        *company.ours(*_LIMITED),
        *lineup.TUNED,
        lineup.THREE,
        lineup.SERVED,
        *company.peers,
    )
    _measure_pairs(scene, BARE, contenders, Traffic(store), effort)
    return scene


def deny(store: Store, effort: Effort, company: Company) -> Scene:
    """Reject one caller far over the limit."""
    scene = Scene("deny", "deny flood, one principal, 10 a minute")
    flood = Traffic(store, limit=10, requests=lambda: repeat(request(0)))
    _measure_pairs(scene, BARE, (*company.ours(*_LIMITED), *company.peers), flood, effort)
    return scene


def _measure_pairs(
    scene: Scene,
    base: Contender,
    contenders: tuple[Contender, ...],
    traffic: Traffic,
    effort: Effort,
) -> None:
    for contender in turns(contenders, effort.rounds):
        figures, others = measure_pair(base, contender, traffic, effort)
        scene.add(base.name, figures)
        scene.add(contender.name, others)


def latency(store: Store, effort: Effort, company: Company) -> Scene:
    """Serve half of the saturating load: each contender its own half, then all the slowest's."""
    scene = Scene("latency", "latency at half of the saturating load")
    contenders, traffic = (BARE, FLOOR, *company.ours(*_LIMITED), *company.peers), Traffic(store)
    with side_by_side(contenders, traffic, effort) as begin:
        saturating = begin()
        saturating.measure(effort.seconds)
        half = {each: saturating.figures(each)[RATE] / 2 for each in contenders}
        lowest = dict.fromkeys(half, min(half.values()))
        for _ in range(effort.rounds):
            own, alike = begin(), begin()
            own.measure(effort.seconds, half)
            alike.measure(effort.seconds, lowest)
            for each in contenders:
                same = alike.figures(each)
                same = {f"{name}, same load": same[name] for name in ("p50 ms", "p99 ms")}
                scene.add(each.name, own.figures(each) | same)
    return scene


def check(store: Store, effort: Effort, company: Company) -> Scene:
    """Call each contender's own check from 256 tasks, without HTTP."""
    scene = Scene("check", "own check from 256 tasks, 1,000 principals, no HTTP")
    for contender in turns((FLOOR, *company.ours(lineup.CHECK), *company.peers), effort.rounds):
        scene.add(contender.name, checks_per_second(store, contender, effort))
    scene.compare("checks/s", FLOOR.name)
    return scene


def traces(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Measure the cost of tracing one request in a hundred."""
    scene = Scene("traces", "traces at 1 % sampling, sent to a collector")
    with _TraceCollector() as collector:
        endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        traced = replace(lineup.TRACED, variables=(*lineup.TRACED.variables, endpoint))
        _measure_pairs(scene, lineup.SERVED, (traced,), Traffic(store), effort)
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
        self.url = f"http://127.0.0.1:{self._server.server_port}"
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


Measure = Callable[[Store, Effort, Company], Scene]
"""A function that measures one scene."""

SCENES: Final[dict[str, Measure]] = {
    "allow": allow,
    "deny": deny,
    "latency": latency,
    "check": check,
    "traces": traces,
    "keys": bytes_per_principal,
    "start": starts,
    "resident": resident,
}
