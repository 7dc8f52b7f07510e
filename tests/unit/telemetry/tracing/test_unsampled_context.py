"""A request that is not sampled is known by what is current, as long as that is all there is."""

from collections.abc import Iterator

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider

from fleetlimit.telemetry.tracing.limiter import OpenTelemetryTracer
from fleetlimit.telemetry.tracing.unsampled import UnsampledContext, in_unsampled_request

SPAN = trace.SpanContext(7, 8, is_remote=False)


@pytest.fixture
def unsampled() -> Iterator[None]:
    """Make a request that is not sampled current."""
    token = context.attach(UnsampledContext.for_span(SPAN))
    yield
    context.detach(token)


@pytest.mark.usefixtures("unsampled")
def test_it_has_the_span_that_it_was_made_of() -> None:
    """Log lines and calls to others have the trace's id."""
    assert in_unsampled_request()
    assert trace.get_current_span().get_span_context() == SPAN


def test_nothing_current_is_no_request() -> None:
    """Outside of a request a check is for the sampler to judge."""
    assert not in_unsampled_request()


@pytest.mark.usefixtures("unsampled")
def test_what_is_put_on_top_is_looked_at(provider: TracerProvider) -> None:
    """A span of one's own within it may be sampled; other values leave it what it is."""
    tracing = OpenTelemetryTracer(provider)
    assert not tracing.is_sampled()
    token = context.attach(baggage.set_baggage("a", "b"))
    assert not in_unsampled_request()
    assert not tracing.is_sampled()
    context.detach(token)
    own = provider.get_tracer("test").start_span("own", context=context.Context())
    with trace.use_span(own):
        assert not in_unsampled_request()
        assert tracing.is_sampled()
