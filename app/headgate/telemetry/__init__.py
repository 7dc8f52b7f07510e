"""Shows what the limiter does: metrics, logs and traces, each an observer of its events."""

from headgate.telemetry.check_span import LimiterTracing
from headgate.telemetry.denial_log import DenialLog
from headgate.telemetry.event_log import EventLog
from headgate.telemetry.event_loop import watch_lag
from headgate.telemetry.instrument import instrument_app, instrument_redis
from headgate.telemetry.logs import configure_logging
from headgate.telemetry.metrics import Metrics
from headgate.telemetry.top import DeniedSubject, TopDenied
from headgate.telemetry.traces import configure_tracing

__all__ = [
    "DenialLog",
    "DeniedSubject",
    "EventLog",
    "LimiterTracing",
    "Metrics",
    "TopDenied",
    "configure_logging",
    "configure_tracing",
    "instrument_app",
    "instrument_redis",
    "watch_lag",
]
