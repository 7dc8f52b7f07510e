"""Telemetry: metrics, logs and traces, each an observer of the limiter's events.

Importing it needs `opentelemetry-api` only. Functions that create spans for requests, or export
spans, import the extra `otel` when they are called.
"""

from fleetlimit.telemetry.event_loop_lag import EventLoopLagMonitor
from fleetlimit.telemetry.logs.config import configure_logging
from fleetlimit.telemetry.logs.denial_log import DenialLog
from fleetlimit.telemetry.logs.event_log import EventLog
from fleetlimit.telemetry.metrics.observer import PrometheusMetrics
from fleetlimit.telemetry.top_denied import DeniedSubject, TopDenied
from fleetlimit.telemetry.tracing.limiter import OpenTelemetryTracer
from fleetlimit.telemetry.tracing.setup import configure_tracing, instrument_app, instrument_asgi

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
    "instrument_asgi",
]
