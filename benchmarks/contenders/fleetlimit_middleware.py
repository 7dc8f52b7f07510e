"""Fleetlimit as middleware, with metrics and JSON log lines for denials."""

from contenders.bare import app
from contenders.export import TUNE_GC
from fleetlimit import Fleetlimit, RateLimitMiddleware
from fleetlimit.telemetry import configure_logging

configure_logging(json=True)
# The environment configures store and policies, as in production.
app.router.lifespan_context = Fleetlimit(tune_gc=TUNE_GC)
app.add_middleware(RateLimitMiddleware)
