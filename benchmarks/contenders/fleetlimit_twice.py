"""Fleetlimit as middleware, with a second copy of one part of its telemetry.

No setting turns off the metrics or the logs, so their cost is measured by a second copy.
"""

import os

from contenders.bare import app
from fleetlimit import Fleetlimit, Observer, RateLimitMiddleware
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.telemetry import DenialLog, EventLog, PrometheusMetrics, configure_logging


def observers_of(part: str) -> list[Observer]:
    """Return new observers of a part of the telemetry: `metrics` or `logs`."""
    if part == "metrics":
        return [PrometheusMetrics()]
    return [DenialLog(MonotonicClock()), EventLog(MonotonicClock())]


configure_logging(json=True)
app.router.lifespan_context = Fleetlimit(observers=observers_of(os.environ["BENCH_TWICE"]))
app.add_middleware(RateLimitMiddleware)
