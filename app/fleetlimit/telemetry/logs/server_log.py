"""Sampling of the logs of uvicorn and of OpenTelemetry's propagators.

Any client can cause these lines: with requests that are not HTTP, and with invalid `traceparent`,
`tracestate` and `baggage` headers. OpenTelemetry writes a line for each invalid entry of a header.
"""

import logging
from contextvars import Context
from typing import Final

from fleetlimit.limiter.log_sampler import OTHERS, SUPPRESSED, LogSampler
from fleetlimit.limiter.ports import Clock

SAMPLED_LOGGERS: Final = (
    "uvicorn.error",
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)
_APP_FAILURES: Final = ("Exception in ASGI application", "ASGI callable")
"""Starts of the messages about a failure of the app itself, which are not sampled."""
_log = logging.getLogger("fleetlimit")


class ServerLogFilter(logging.Filter):
    """Filter that passes the first lines of each message in a window, and counts the others.

    A summary is written with the next line of these logs after the window; uvicorn logs its own
    shutdown, so that the counts are complete.

    Args:
        clock: Monotonic clock of the process.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._sampler: LogSampler[str] = LogSampler(clock, _write_summary, overflow=OTHERS)

    def install(self) -> None:
        """Filter these logs, in place of an earlier filter of this class."""
        for logger in map(logging.getLogger, SAMPLED_LOGGERS):
            for each in [*logger.filters]:
                if isinstance(each, ServerLogFilter):
                    logger.removeFilter(each)
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        message = str(record.msg)
        return message.startswith(_APP_FAILURES) or self._sampler.should_log(message)


def _write_summary(message: str, count: int) -> None:
    # A summary belongs to many requests, so it is logged without the trace of the current one.
    Context().run(_log.warning, "server%s message=%r suppressed=%d", SUPPRESSED, message, count)
