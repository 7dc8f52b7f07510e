"""Logs of a limiter, which suppress repeated lines and count them."""

from typing import Any

from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.ports import Clock
from fleetlimit.telemetry import DenialLog, EventLog, PrometheusMetrics


class LimiterLogs:
    """Logs of the denials, of other events, and of failures of the app's functions.

    Args:
        clock: Clock of the process.
        log: Structured logger.
        metrics: Counts the suppressed denials.
    """

    def __init__(self, clock: Clock, log: Any, metrics: PrometheusMetrics) -> None:
        self._denials = DenialLog(clock, log, on_suppressed=metrics.on_denial_suppressed)
        self._events = EventLog(clock, log)
        self.failures = FailureLog(clock)
        self.observers = (self._denials, self._events)
        """What receives the events of the limiter."""

    def flush(self) -> None:
        """Log the counts of suppressed lines even when no further event triggers it."""
        self._denials.flush()
        self._events.flush()
        self.failures.flush()

    def close(self) -> None:
        """Log all counts that are left."""
        self._denials.close()
        self._events.close()
        self.failures.close()
