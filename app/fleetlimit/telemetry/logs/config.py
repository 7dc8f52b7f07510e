"""Logging configuration: one renderer for all libraries, with trace ids and the pod's name."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.telemetry import names
from fleetlimit.telemetry.logs.server_log import ServerLogFilter

_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def configure_logging(
    level: str = "INFO",
    *,
    json: bool = True,
    pod: str = "",
    stream: TextIO | None = None,
) -> None:
    """Render all log lines of the process alike, those of other libraries included.

    Lines of uvicorn that clients can cause are sampled.

    Args:
        level: Lowest level that is written, such as `INFO`.
        json: Write one JSON object per line; if False, text for a terminal.
        pod: Name of the pod, added to every line unless empty.
        stream: Stream to write to; by default standard output.

    Raises:
        ConfigError: `level` is not a log level.
    """
    level_number = logging.getLevelNamesMapping().get(level.upper())
    if level_number is None:
        raise ConfigError(f"{level!r} is not a log level: write DEBUG, INFO, WARNING or ERROR")
    shared = _shared_processors(pod)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level_number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(json=json, colors=_has_colors(stream)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_number)
    ServerLogFilter(MonotonicClock()).install()
    for name in _UVICORN_LOGGERS:
        logger = logging.getLogger(name)
        if not logger.hasHandlers():
            # uvicorn's own test for an access log that `--no-access-log` switched off.
            continue
        # uvicorn's own handlers would write a second line in a second format.
        logger.handlers.clear()
        logger.propagate = True


def add_trace_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the current trace and span, in hexadecimal as trace backends show them."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event[names.TRACE_ID] = trace.format_trace_id(context.trace_id)
        event[names.SPAN_ID] = trace.format_span_id(context.span_id)
    return event


def _shared_processors(pod: str) -> Sequence[Processor]:
    def add_pod(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["pod"] = pod
        return event

    return (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace_ids,
        *([add_pod] if pod else []),
        structlog.processors.StackInfoRenderer(),
    )


def _has_colors(stream: TextIO) -> bool:
    """Return whether a stream is a terminal whose user did not switch colors off (`NO_COLOR`)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _renderers(*, json: bool, colors: bool) -> Sequence[Processor]:
    # Tracebacks with local variables, the default of both renderers, would write secrets to logs.
    if json:
        return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
    return (
        structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback
        ),
    )
