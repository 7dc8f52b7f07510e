"""Context of an unsampled request."""

from collections.abc import Iterator

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider

from fleetlimit.telemetry.tracing.limiter import OpenTelemetryTracer
from fleetlimit.telemetry.tracing.unsampled import UnsampledContext, in_unsampled_request

SPAN = trace.SpanContext(7, 8, is_remote=False)


@pytest.fixture
def unsampled() -> Iterator[None]:
    """Attach the context of an unsampled request."""
    token = context.attach(UnsampledContext.for_span(SPAN))
    yield
    context.detach(token)


@pytest.mark.usefixtures("unsampled")
def test_unsampled_context_has_its_span() -> None:
    """Log lines and outgoing calls have the trace id."""
    assert in_unsampled_request()
    assert trace.get_current_span().get_span_context() == SPAN


def test_empty_context_is_no_unsampled_request() -> None:
    """Outside of a request the sampler decides about a check."""
    assert not in_unsampled_request()


@pytest.mark.usefixtures("unsampled")
def test_context_attached_in_an_unsampled_request_is_a_plain_context(
    provider: TracerProvider,
) -> None:
    """A span attached inside may be sampled; a check under other values is still unsampled."""
    tracer = OpenTelemetryTracer(provider)
    assert not tracer.is_sampled()
    token = context.attach(baggage.set_baggage("a", "b"))
    assert not in_unsampled_request()
    assert not tracer.is_sampled()
    context.detach(token)
    own = provider.get_tracer("test").start_span("own", context=context.Context())
    with trace.use_span(own):
        assert not in_unsampled_request()
        assert tracer.is_sampled()
