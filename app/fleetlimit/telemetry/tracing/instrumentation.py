"""Traces requests and store calls with OpenTelemetry's own instrumentation."""

import os
from typing import Any

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import Span, TracerProvider

from fleetlimit.telemetry import names
from fleetlimit.telemetry.tracing.head_sampling import sample_at_head

_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"


def instrument_app(app: FastAPI, provider: TracerProvider) -> None:
    """Make a server span for each request; a 429 does not mark it as an error.

    Call it before the app serves anything, its lifespan included: that is when Starlette puts the
    middleware together.

    Args:
        app: The app.
        provider: Where spans go.
    """
    _prefer_stable_names()
    # A span for each ASGI message would triple the spans of a request and say nothing more.
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, exclude_spans=["receive", "send"]
    )
    sample_at_head(app, provider)


def instrument_redis(client: Any, provider: TracerProvider) -> None:
    """Make a client span for each command of one Redis client, and of no other in the process.

    Args:
        client: An asyncio client of redis-py, single or cluster.
        provider: Where spans go.
    """
    _prefer_stable_names()
    RedisInstrumentor.instrument_client(client, tracer_provider=provider, response_hook=_name_batch)


def _prefer_stable_names() -> None:
    """Ask for the stable attribute names, read once by the first instrumentation in a process."""
    os.environ.setdefault(_OPT_IN, "http,database")


def _name_batch(span: Span, _client: Any, _answer: Any) -> None:
    """Name a pipeline of equal commands after one of them, as the conventions for Redis say.

    The instrumentation strings the commands together, which makes a new name for each length.
    """
    commands = getattr(span, "name", "").split()
    if len(commands) > 1 and len(set(commands)) == 1:
        name = f"PIPELINE {commands[0]}"
        span.update_name(name)
        span.set_attribute(names.ATTR_DB_OPERATION, name)
        span.set_attribute(names.ATTR_DB_BATCH_SIZE, len(commands))
