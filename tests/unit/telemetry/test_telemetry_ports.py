"""Observers and tracer of the package, as the limiter's ports require them."""

from opentelemetry.sdk.trace import TracerProvider

from fleetlimit import telemetry
from fleetlimit.limiter.dispatcher import EventDispatcher
from fleetlimit.limiter.observers import Observer
from fleetlimit.limiter.ports import Tracer
from fleetlimit.telemetry import (
    DenialLog,
    EventLog,
    OpenTelemetryTracer,
    PrometheusMetrics,
    TopDenied,
)
from fleetlimit.testing import ManualClock
from support.telemetry import Lines, decision_event


def test_observers_implement_the_port() -> None:
    """Metrics, logs and top list receive the same event."""
    lines, metrics, top = Lines(), PrometheusMetrics(), TopDenied()
    clock = ManualClock()
    observers: list[Observer] = [
        metrics,
        top,
        DenialLog(clock, lines.logger, on_suppressed=metrics.on_denial_suppressed),
        EventLog(clock, lines.logger),
    ]
    EventDispatcher(observers).emit(decision_event())
    assert lines.written == []
    assert b'fleetlimit_checks_total{outcome="allowed"} 1.0' in metrics.render()[0]


def test_tracer_implements_the_port(provider: TracerProvider) -> None:
    """The limiter can use the OpenTelemetry tracer."""
    tracer: Tracer = OpenTelemetryTracer(provider)
    with tracer.start_check(["a"]) as span:
        span.set_decision(decision_event().decision)


def test_public_names_are_sorted_and_exist() -> None:
    """Every public name exists, in order."""
    assert telemetry.__all__ == sorted(
        telemetry.__all__, key=lambda name: (name[0].islower(), name)
    )
    assert all(hasattr(telemetry, name) for name in telemetry.__all__)
