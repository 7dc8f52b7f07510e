"""Shared by unit tests: no variables of the machine, restored logging, and spans."""

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from fleetlimit.telemetry.logs.server_log import SAMPLED_LOGGERS

_CONFIGURED_LOGGERS = {"", "uvicorn", "uvicorn.access", "uvicorn.asgi", *SAMPLED_LOGGERS}
"""Loggers that `configure_logging` changes (the empty name: the root logger)."""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away every variable that the service reads, and let the test set its own."""
    for name in list(os.environ):
        if name.startswith(("FLEETLIMIT_", "OTEL_", "POD_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def unconfigured_logging() -> Iterator[None]:
    """Log as inside an app with its own logging, and restore what other tests configured."""
    configured, config = structlog.is_configured(), structlog.get_config()
    loggers = [*map(logging.getLogger, _CONFIGURED_LOGGERS)]
    before = [(each, each.handlers[:], each.filters[:]) for each in loggers]
    levels = [(each, each.level, each.propagate) for each in loggers]
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if configured:
        structlog.configure(**config)
    for logger, handlers, filters in before:
        logger.handlers[:], logger.filters[:] = handlers, filters
    for logger, level, propagate in levels:
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return what was logged, information included."""
    caplog.set_level(logging.INFO, "fleetlimit")
    return caplog


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Return where the spans of `provider` can be read."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> Iterator[TracerProvider]:
    """Return a provider of its own, which keeps every span."""
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=Resource.get_empty(), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider
    provider.shutdown()
