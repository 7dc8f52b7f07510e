"""Server spans for requests, created by OpenTelemetry's own instrumentation."""

import os
from collections.abc import Callable
from typing import Literal

from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import TracerProvider
from starlette.types import ASGIApp, Scope

from fleetlimit.telemetry.tracing.head_sampling import enable_head_sampling

_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_MESSAGE_SPANS: list[Literal["receive", "send"]] = ["receive", "send"]
"""Excluded: a span per ASGI message triples the spans of a request and adds no information."""


def instrument_fastapi(app: FastAPI, provider: TracerProvider) -> None:
    """Create a server span for each request of a FastAPI app."""
    _opt_in_to_stable_semconv()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=_MESSAGE_SPANS)
    enable_head_sampling(app, provider)


def instrument_asgi(
    app: ASGIApp,
    provider: TracerProvider,
    span_details: Callable[[Scope], tuple[str, dict[str, str]]],
) -> ASGIApp:
    """Return an ASGI app that creates a server span for each request."""
    _opt_in_to_stable_semconv()
    return OpenTelemetryMiddleware(
        app,
        tracer_provider=provider,
        default_span_details=span_details,
        exclude_spans=_MESSAGE_SPANS,
    )


def _opt_in_to_stable_semconv() -> None:
    """Opt in to the stable attribute names; the first instrumentation of a process reads this."""
    os.environ.setdefault(_OPT_IN, "http")
