"""Server spans for the app's requests, by OpenTelemetry's own instrumentation of FastAPI."""

import os

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import TracerProvider

from fleetlimit.telemetry.tracing.head_sampling import enable_head_sampling

_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"


def instrument_app(app: FastAPI, provider: TracerProvider) -> None:
    """Make a server span for each request; a 429 does not mark it as an error.

    Call it before the app serves anything, its lifespan included: that is when Starlette puts the
    middleware together.

    Args:
        app: The app.
        provider: Where spans go.
    """
    _opt_in_to_stable_semconv()
    # A span for each ASGI message would triple the spans of a request and say nothing more.
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, exclude_spans=["receive", "send"]
    )
    enable_head_sampling(app, provider)


def _opt_in_to_stable_semconv() -> None:
    """Ask for the stable attribute names, read once by the first instrumentation in a process."""
    os.environ.setdefault(_OPT_IN, "http")
