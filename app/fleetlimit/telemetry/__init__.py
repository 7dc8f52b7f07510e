"""Shows what the limiter does: metrics, logs and traces, each an observer of its events."""

from fleetlimit.telemetry.event_loop_lag import EventLoopLagMonitor
from fleetlimit.telemetry.logs.config import configure_logging
from fleetlimit.telemetry.logs.denial_log import DenialLog
from fleetlimit.telemetry.logs.event_log import EventLog
from fleetlimit.telemetry.metrics.observer import PrometheusMetrics
from fleetlimit.telemetry.top_denied import DeniedSubject, TopDenied
from fleetlimit.telemetry.tracing.instrumentation import instrument_app
from fleetlimit.telemetry.tracing.limiter import OpenTelemetryTracer
from fleetlimit.telemetry.tracing.provider import configure_tracing

__all__ = [
    "DenialLog",
    "DeniedSubject",
    "EventLog",
    "EventLoopLagMonitor",
    "OpenTelemetryTracer",
    "PrometheusMetrics",
    "TopDenied",
    "configure_logging",
    "configure_tracing",
    "instrument_app",
]
