"""Headgate as middleware, with metrics and with JSON lines for denials."""

from contenders.bare import app
from headgate import Headgate, RateLimitMiddleware
from headgate.telemetry import configure_logging

configure_logging(json=True)
# Store and policies come from the environment, as in production.
app.router.lifespan_context = Headgate()
app.add_middleware(RateLimitMiddleware)
