"""Fleetlimit as middleware, with metrics and with JSON lines for denials."""

from contenders.bare import app
from fleetlimit import Fleetlimit, RateLimitMiddleware
from fleetlimit.telemetry import configure_logging

configure_logging(json=True)
# Store and policies come from the environment, as in production.
app.router.lifespan_context = Fleetlimit()
app.add_middleware(RateLimitMiddleware)
