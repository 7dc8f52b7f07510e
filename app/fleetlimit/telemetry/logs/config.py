"""Writes every log line as one object, with the trace and the pod that it belongs to."""

import logging
import sys
from collections.abc import Sequence
from typing import TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from fleetlimit.errors import ConfigError
from fleetlimit.telemetry import names

_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def configure_logging(
    level: str = "INFO",
    *,
    json: bool = True,
    pod: str = "",
    stream: TextIO | None = None,
) -> None:
    """Send all logging of the process, of any library, through one renderer.

    Args:
        level: Least level that is written, such as `INFO`.
        json: Write JSON, one object a line; if not, text for people.
        pod: Name of the pod, added to every line when given.
        stream: Where to write; standard output when left out.

    Raises:
        ConfigError: There is no such level.
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
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(json=json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_number)
    for name in _UVICORN_LOGGERS:
        logger = logging.getLogger(name)
        if not logger.hasHandlers():
            # Switched off, by `--no-access-log`: uvicorn asks the same before it makes a line.
            continue
        # uvicorn's own handlers would write a second line in a second format.
        logger.handlers.clear()
        logger.propagate = True


def add_trace_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the current trace and span, if there are any, in the hexadecimal that traces use."""
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


def _renderers(*, json: bool) -> Sequence[Processor]:
    # The tracebacks with local variables, which both renderers offer, would write secrets out.
    if json:
        return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
    return (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),)
