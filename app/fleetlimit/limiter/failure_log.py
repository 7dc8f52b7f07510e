"""Log of failures that clients can repeat: the first ones with tracebacks, then exact counts."""

import logging
from contextvars import Context

from fleetlimit.limiter.log_sampler import OTHERS, SUPPRESSED, LogSampler
from fleetlimit.limiter.ports import Clock

_log = logging.getLogger("fleetlimit")


class FailureLog:
    """Log of exceptions that a request may cause, rate limited per event and type of exception.

    The lines written and the numbers suppressed add up. A summary is written with the next failure
    after its window, by `flush`, or by `close`.

    Args:
        clock: Monotonic clock of the process.
    """

    def __init__(self, clock: Clock) -> None:
        self._sampler: LogSampler[tuple[str, str]] = LogSampler(
            clock, self._write_summary, overflow=(OTHERS, OTHERS)
        )

    def write(self, event: str, error: BaseException) -> None:
        """Log an exception with its traceback, or count it for a summary."""
        if self._sampler.should_log((event, type(error).__name__)):
            _log.error(event, exc_info=error)

    def flush(self) -> None:
        """Write the summaries of windows that have ended."""
        self._sampler.flush()

    def close(self) -> None:
        """Write the summaries of all windows, so that the log includes every failure."""
        self._sampler.close()

    def _write_summary(self, key: tuple[str, str], count: int) -> None:
        event, error = key
        # A summary belongs to many traces, so it is logged without the current one.
        Context().run(_log.error, "%s%s error=%s suppressed=%d", event, SUPPRESSED, error, count)
