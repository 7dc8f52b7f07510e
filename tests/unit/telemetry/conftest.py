"""Fixtures that restore the logging and the environment of the process after a test."""

import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from fleetlimit.telemetry.logs.server_log import SAMPLED_LOGGERS


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Restore the logging of the process after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    config = structlog.get_config()
    servers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in servers]
    filtered = map(logging.getLogger, SAMPLED_LOGGERS)
    filters = [(each, each.filters[:]) for each in filtered]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, its_filters in filters:
        logger.filters[:] = its_filters
    for logger, its_handlers, its_level, propagate in before:
        logger.handlers[:] = its_handlers
        logger.setLevel(its_level)
        logger.propagate = propagate
    structlog.configure(**config)


@pytest.fixture
def no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove all OTEL_* and POD_* variables, and let the test set its own."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "POD_")):
            monkeypatch.delenv(name)
    return monkeypatch
