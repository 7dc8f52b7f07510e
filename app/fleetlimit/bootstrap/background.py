"""Background work of a running limiter: flushes, the lag of the event loop, the policy file."""

from typing import Final

from fleetlimit.bootstrap.limiter_logs import LimiterLogs
from fleetlimit.bootstrap.route_report import RouteReporter
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.ports import Clock
from fleetlimit.telemetry import EventLoopLagMonitor, PrometheusMetrics

_FLUSH_SECONDS: Final = 5.0


class BackgroundWork:
    """Periodic tasks of a limiter.

    Args:
        logs: Logs that are flushed.
        metrics: Metrics that are flushed, and have the lag of the event loop.
        route_reporter: Reports routes that the app has added.
        clock: Clock of the lag.
    """

    def __init__(
        self,
        logs: LimiterLogs,
        metrics: PrometheusMetrics,
        route_reporter: RouteReporter,
        clock: Clock,
    ) -> None:
        self.tasks: list[PeriodicTask | EventLoopLagMonitor] = []
        """The tasks that run; empty before the start and after the end."""
        self._logs = logs
        self._metrics = metrics
        self._route_reporter = route_reporter
        self._clock = clock

    def start(self, *further: PeriodicTask) -> None:
        """Start the tasks, and further ones."""
        self.tasks = [
            PeriodicTask(self.flush, _FLUSH_SECONDS, failure_event="background.failed"),
            EventLoopLagMonitor(self._metrics.on_event_loop_lag, self._clock),
            *further,
        ]
        for task in self.tasks:
            task.start()

    async def stop(self) -> None:
        """Stop the tasks, and wait for their end."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            await task.stop()

    async def flush(self) -> None:
        """Log the counts of suppressed lines, and export the metrics of added routes."""
        self._logs.flush()
        self._metrics.flush()
        await self._route_reporter.report_changes()
