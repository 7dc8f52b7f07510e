"""Each check is one span, and what it asks of the store is a child of it."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.telemetry.tracing.limiter import OpenTelemetryTracer
from support.telemetry import decision_event

DENIED = decision_event(Outcome.DENIED, retry_after_us=1_500_001).decision


def test_span_says_what_was_decided(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    """A check's span names policies, result, source and milliseconds to wait; it is no error."""
    with OpenTelemetryTracer(provider, version="1.2.3").start_check(["a", "b"]) as span:
        span.set_decision(DENIED)
    (found,) = spans.get_finished_spans()
    assert found.name == "fleetlimit.check"
    assert found.kind is trace.SpanKind.INTERNAL
    assert found.status.status_code is trace.StatusCode.UNSET
    assert found.instrumentation_scope is not None
    assert (found.instrumentation_scope.name, found.instrumentation_scope.version) == (
        "fleetlimit",
        "1.2.3",
    )
    assert dict(found.attributes or {}) == {
        "rate_limiting.policy": ("a", "b"),
        "rate_limiting.result": "denied",
        "fleetlimit.source": "store",
        "fleetlimit.retry_after_ms": 1501,
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "acquire",
    }


def test_decision_without_the_store_names_no_store(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """A check that the store was not asked about says nothing of a database."""
    with OpenTelemetryTracer(provider).start_check(["a"]) as span:
        span.set_decision(decision_event(Outcome.ALLOWED, source=Source.LOCAL).decision)
    (found,) = spans.get_finished_spans()
    assert dict(found.attributes or {}) == {
        "rate_limiting.policy": ("a",),
        "rate_limiting.result": "allowed",
        "fleetlimit.source": "local",
    }


def test_spans_inside_are_children(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    """What runs inside the check is its child, and what runs after it is not."""
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("request") as request:
        with (
            OpenTelemetryTracer(provider).start_check(["a"]),
            tracer.start_as_current_span("EVALSHA"),
        ):
            pass
        assert trace.get_current_span() is request
    call, check, _ = spans.get_finished_spans()
    assert call.parent is not None
    assert call.parent.span_id == check.context.span_id
    assert check.parent is not None
    assert check.parent.span_id == request.get_span_context().span_id


def test_error_is_on_the_span(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    """An exception passes through, and is recorded."""
    with pytest.raises(ValueError, match="no"), OpenTelemetryTracer(provider).start_check(["a"]):
        raise ValueError("no")
    (found,) = spans.get_finished_spans()
    assert found.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in found.events] == ["exception"]


def test_cancelled_check_is_no_error(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    """A check that ends because the client went away ends its span without an error."""
    with pytest.raises(asyncio.CancelledError), OpenTelemetryTracer(provider).start_check(["a"]):
        raise asyncio.CancelledError
    (found,) = spans.get_finished_spans()
    assert found.status.status_code is trace.StatusCode.UNSET


async def test_checks_at_once_do_not_mix(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Checks that run at the same time each have their own children."""
    tracer, tracing = provider.get_tracer("test"), OpenTelemetryTracer(provider)
    met = asyncio.Barrier(2)

    async def check(name: str) -> None:
        with tracing.start_check([name]):
            await met.wait()
            tracer.start_span(name).end()
            await met.wait()

    await asyncio.gather(check("a"), check("b"))
    finished = spans.get_finished_spans()
    checks = {
        span.context.span_id: span.attributes["rate_limiting.policy"]
        for span in finished
        if span.name == "fleetlimit.check" and span.attributes
    }
    for span in finished:
        if span.name in {"a", "b"}:
            assert span.parent is not None
            assert checks[span.parent.span_id] == (span.name,)


def test_span_that_is_not_kept_costs_no_attributes(spans: InMemorySpanExporter) -> None:
    """Without sampling a check goes on and nothing is exported."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    with OpenTelemetryTracer(provider).start_check(["a"]) as span:
        span.set_decision(DENIED)
    assert spans.get_finished_spans() == ()


def test_a_check_of_a_request_that_is_not_sampled_has_no_span() -> None:
    """The request's own span stays the current one, so that its trace goes on to the store."""
    silent = TracerProvider(sampler=ALWAYS_OFF)
    with silent.get_tracer("test").start_as_current_span("request") as request:
        assert not OpenTelemetryTracer(silent).is_sampled()
        assert trace.get_current_span() is request


def test_a_check_of_a_request_that_is_sampled_has_a_span(provider: TracerProvider) -> None:
    """So has one that nothing is known of: that is for the sampler to judge."""
    assert OpenTelemetryTracer(provider).is_sampled()
    with provider.get_tracer("test").start_as_current_span("request"):
        assert OpenTelemetryTracer(provider).is_sampled()


def test_a_check_under_a_remote_parent_is_for_the_sampler_to_judge(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Where nothing traces the request itself, a sampler may want what the caller did not."""
    caller = trace.SpanContext(1, 1, is_remote=True)
    tracing = OpenTelemetryTracer(provider)
    with trace.use_span(trace.NonRecordingSpan(caller)):
        assert tracing.is_sampled()
        with tracing.start_check(["a"]):
            pass
    assert len(spans.get_finished_spans()) == 1
