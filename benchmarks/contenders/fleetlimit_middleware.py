"""Fleetlimit as middleware, with metrics and JSON log lines for denials."""

from contenders.bare import app
from fleetlimit import Fleetlimit, RateLimitMiddleware
from fleetlimit.telemetry import configure_logging

configure_logging(json=True)
# The environment configures store and policies, as in production.
app.router.lifespan_context = Fleetlimit()
app.add_middleware(RateLimitMiddleware)
