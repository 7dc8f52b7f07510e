"""Apps with tracing of their own, each behind the limiter as `fleetlimit serve` puts it there.

A process has one global tracer provider, so the combinations run in a process of their own:

- `python -m support.traced_apps never|import|lifespan` prints the server spans of ten requests to
  each app as JSON, by the provider of `serve` and by the provider of the app, for a sampler that
  is on and one that is off. The argument is when the app sets the global tracer provider.
- `python -m support.traced_apps metrics` prints the requests that `http.server.request.duration`
  counts for each app.
"""

import asyncio
import contextlib
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit import Fleetlimit
from fleetlimit.server.wrap import WrappedApp
from fleetlimit.telemetry.tracing.head_sampling import PresetTraceIdGenerator

REQUESTS = 10


class Provider(TracerProvider):
    """Provider that records its spans, as `configure_tracing` builds it."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        super().__init__(
            sampler=sampler, id_generator=PresetTraceIdGenerator(), shutdown_on_exit=False
        )
        self.exporter = InMemorySpanExporter()
        self.add_span_processor(SimpleSpanProcessor(self.exporter))

    def server_spans(self) -> int:
        """Return the number of server spans, and forget all spans."""
        spans = self.exporter.get_finished_spans()
        self.exporter.clear()
        return sum(span.kind is trace.SpanKind.SERVER for span in spans)


THEIRS = Provider()


def plain() -> FastAPI:
    """Return an app without any tracing of its own."""
    app = FastAPI()
    app.add_api_route("/item", lambda: None)
    return app


def instrumented() -> FastAPI:
    """Return an app that OpenTelemetry instruments."""
    app = plain()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=THEIRS)
    return app


def with_middleware() -> FastAPI:
    """Return an app that adds OpenTelemetry's middleware itself."""
    app = plain()
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=THEIRS)
    return app


def with_middleware_function() -> FastAPI:
    """Return an app with a function that adds OpenTelemetry's middleware."""
    app = plain()
    app.add_middleware(functools.partial(OpenTelemetryMiddleware, tracer_provider=THEIRS))
    return app


def wrapped() -> ASGIApp:
    """Return an app inside OpenTelemetry's middleware."""
    return OpenTelemetryMiddleware(plain(), tracer_provider=THEIRS)


def mounting() -> FastAPI:
    """Return an app whose route is in a mounted FastAPI app."""
    app = FastAPI()
    app.mount("/", plain())
    return app


def instrumented_mounting() -> FastAPI:
    """Return an app that OpenTelemetry instruments, whose route is in a mounted FastAPI app."""
    app = mounting()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=THEIRS)
    return app


def starlette_with_middleware() -> Starlette:
    """Return a Starlette app with OpenTelemetry's middleware that mounts a FastAPI app."""
    app = starlette()
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=THEIRS)
    return app


def wrapped_function() -> ASGIApp:
    """Return OpenTelemetry's middleware around a function around a FastAPI app."""
    return OpenTelemetryMiddleware(hidden(), tracer_provider=THEIRS)


def starlette() -> Starlette:
    """Return a Starlette app that mounts a FastAPI app."""
    return Starlette(routes=[Mount("/", plain())])


def hidden() -> ASGIApp:
    """Return a function around a FastAPI app."""
    app = plain()

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return call


APPS: tuple[Callable[[], ASGIApp], ...] = (
    plain,
    instrumented,
    with_middleware,
    with_middleware_function,
    wrapped,
    mounting,
    starlette,
    hidden,
    instrumented_mounting,
    starlette_with_middleware,
    wrapped_function,
)


async def get(app: ASGIApp, path: str, headers: dict[str, str] | None = None) -> int:
    """Send a request to an app, and return the status."""
    statuses: list[int] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), each.encode()) for name, each in (headers or {}).items()],
        "client": ("192.0.2.1", 1),
        "server": ("testserver", 80),
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0]


async def started(app: ASGIApp) -> None:
    """Run the start of the app's lifespan, if it has one."""
    messages: list[str] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            return {"type": "lifespan.startup"}
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        messages.append(message["type"])

    with contextlib.suppress(Exception):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


async def spans_of(make: Callable[[], ASGIApp], sampler: Sampler, when: str) -> tuple[int, int]:
    """Return the server spans of the requests: of our provider, and of the app's provider."""
    ours = Provider(sampler)
    target = make()
    if when == "lifespan" and isinstance(target, Starlette):
        original = target.router.lifespan_context

        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            trace.set_tracer_provider(THEIRS)
            async with original(app) as state:
                yield state

        target.router.lifespan_context = lifespan
    fleetlimit = Fleetlimit()
    fleetlimit.activate_policies()
    app = WrappedApp(target, fleetlimit, ours).app
    await started(app)
    assert {await get(app, "/item") for _ in range(REQUESTS)} == {200}
    return ours.server_spans(), THEIRS.server_spans()


async def measured(make: Callable[[], ASGIApp], reader: InMemoryMetricReader) -> int:
    """Return the requests that the duration histogram has counted in total."""
    fleetlimit = Fleetlimit()
    fleetlimit.activate_policies()
    app = WrappedApp(make(), fleetlimit, Provider(ParentBased(ALWAYS_OFF))).app
    await started(app)
    for number in range(REQUESTS):
        flags = f"{number % 2:02}"
        headers = {"traceparent": f"00-{7:032x}-{8:016x}-{flags}"} if number % 3 == 0 else {}
        assert await get(app, "/item", headers) == 200
    data = reader.get_metrics_data()
    points = [
        point
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    ]
    return sum(point.count for point in points)


async def count_requests() -> dict[str, int]:
    """Return the requests that are measured for each app without tracing of its own."""
    reader = InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})
    metrics.set_meter_provider(MeterProvider([reader]))
    apps = (plain, hidden, with_middleware_function)
    return {make.__name__: await measured(make, reader) for make in apps}


async def count_spans(when: str) -> dict[str, list[tuple[int, int]]]:
    """Return the server spans of all apps, with a sampler that is on and one that is off."""
    if when == "import":
        trace.set_tracer_provider(THEIRS)
    return {
        make.__name__: [
            await spans_of(make, ParentBased(sampler), when) for sampler in (ALWAYS_ON, ALWAYS_OFF)
        ]
        for make in APPS
    }


async def main(command: str) -> None:
    """Write the counts as JSON."""
    found = await count_requests() if command == "metrics" else await count_spans(command)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
