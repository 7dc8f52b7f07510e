"""Shows what the limiter does: metrics, logs and traces, each an observer of its events."""

from fleetlimit.telemetry.check_span import LimiterTracing
from fleetlimit.telemetry.denial_log import DenialLog
from fleetlimit.telemetry.event_log import EventLog
from fleetlimit.telemetry.event_loop import watch_lag
from fleetlimit.telemetry.instrument import instrument_app, instrument_redis
from fleetlimit.telemetry.logs import configure_logging
from fleetlimit.telemetry.metrics import Metrics
from fleetlimit.telemetry.top import DeniedSubject, TopDenied
from fleetlimit.telemetry.traces import configure_tracing

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
