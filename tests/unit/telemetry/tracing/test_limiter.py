"""Tracer of checks: one span per check, with the store call as its child."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from fleetlimit import Fleetlimit, Policy, PolicySet
from fleetlimit.core.decision import Outcome, Source
from fleetlimit.telemetry.tracing.limiter import OpenTelemetryTracer
from support.telemetry import decision_event

DENIED = decision_event(Outcome.DENIED, retry_after_us=1_500_001).decision


def test_span_has_the_decision(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    """The span has policies, outcome, source and milliseconds to wait; a denial is no error."""
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
        "fleetlimit.policies": ("a", "b"),
        "fleetlimit.outcome": "denied",
        "fleetlimit.source": "store",
        "fleetlimit.retry_after_ms": 1501,
    }


def test_span_without_a_store_call_has_no_database_attributes(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """A local decision has no attributes of a database."""
    with OpenTelemetryTracer(provider).start_check(["a"]) as span:
        span.set_decision(decision_event(Outcome.ALLOWED, source=Source.LOCAL).decision)
    (found,) = spans.get_finished_spans()
    assert dict(found.attributes or {}) == {
        "fleetlimit.policies": ("a",),
        "fleetlimit.outcome": "allowed",
        "fleetlimit.source": "local",
    }


async def test_check_in_memory_is_its_only_span(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Without a database there is no span of a call, and no attribute of one."""
    policies = PolicySet([Policy("a", "1/day")])
    async with Fleetlimit(policies=policies, tracer=OpenTelemetryTracer(provider)) as fleetlimit:
        await fleetlimit.limiter.check("a", principal="alice")
    (found,) = spans.get_finished_spans()
    assert found.name == "fleetlimit.check"
    assert not [name for name in found.attributes or {} if name.startswith("db.")]


def test_spans_inside_a_check_are_children(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """A span started inside the check is its child, and one after it is not."""
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


def test_exception_is_recorded_on_the_span(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The exception is raised, and recorded."""
    with pytest.raises(ValueError, match="no"), OpenTelemetryTracer(provider).start_check(["a"]):
        raise ValueError("no")
    (found,) = spans.get_finished_spans()
    assert found.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in found.events] == ["exception"]


def test_cancelled_check_is_no_error(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    """A check cancelled by a disconnected client ends its span without an error."""
    with pytest.raises(asyncio.CancelledError), OpenTelemetryTracer(provider).start_check(["a"]):
        raise asyncio.CancelledError
    (found,) = spans.get_finished_spans()
    assert found.status.status_code is trace.StatusCode.UNSET


async def test_concurrent_checks_have_their_own_children(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Spans of concurrent checks do not mix."""
    sdk_tracer, tracer = provider.get_tracer("test"), OpenTelemetryTracer(provider)
    barrier = asyncio.Barrier(2)

    async def check(name: str) -> None:
        with tracer.start_check([name]):
            await barrier.wait()
            sdk_tracer.start_span(name).end()
            await barrier.wait()

    await asyncio.gather(check("a"), check("b"))
    finished = spans.get_finished_spans()
    checks = {
        span.context.span_id: span.attributes["fleetlimit.policies"]
        for span in finished
        if span.name == "fleetlimit.check" and span.attributes
    }
    for span in finished:
        if span.name in {"a", "b"}:
            assert span.parent is not None
            assert checks[span.parent.span_id] == (span.name,)


def test_unsampled_check_exports_nothing(spans: InMemorySpanExporter) -> None:
    """A check works without sampling."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    with OpenTelemetryTracer(provider).start_check(["a"]) as span:
        span.set_decision(DENIED)
    assert spans.get_finished_spans() == ()


def test_check_in_an_unsampled_request_is_not_sampled() -> None:
    """The request's span stays current, so that its trace reaches the store."""
    silent = TracerProvider(sampler=ALWAYS_OFF)
    with silent.get_tracer("test").start_as_current_span("request") as request:
        assert not OpenTelemetryTracer(silent).is_sampled()
        assert trace.get_current_span() is request


def test_check_in_a_sampled_request_is_sampled(provider: TracerProvider) -> None:
    """So is a check without any request: the sampler decides about it."""
    assert OpenTelemetryTracer(provider).is_sampled()
    with provider.get_tracer("test").start_as_current_span("request"):
        assert OpenTelemetryTracer(provider).is_sampled()


def test_check_under_a_remote_parent_is_left_to_the_sampler(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Without server spans, a sampler may sample a check whose caller was not sampled."""
    caller = trace.SpanContext(1, 1, is_remote=True)
    tracer = OpenTelemetryTracer(provider)
    with trace.use_span(trace.NonRecordingSpan(caller)):
        assert tracer.is_sampled()
        with tracer.start_check(["a"]):
            pass
    assert len(spans.get_finished_spans()) == 1
