"""Fleetlimit as middleware, with traces of the requests and of the checks."""

from contenders.bare import app
from fleetlimit import Fleetlimit, RateLimitMiddleware
from fleetlimit.telemetry import (
    OpenTelemetryTracer,
    configure_logging,
    configure_tracing,
    instrument_app,
)

configure_logging(json=True)
# The variables of OpenTelemetry configure sampler and collector.
provider = configure_tracing("benchmark")
if provider is None:
    raise RuntimeError("OTEL_EXPORTER_OTLP_ENDPOINT is missing: write the collector's URL")
app.router.lifespan_context = Fleetlimit(tracer=OpenTelemetryTracer(provider))
app.add_middleware(RateLimitMiddleware)
instrument_app(app, provider)
