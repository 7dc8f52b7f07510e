"""What the package offers fits where the limiter takes it."""

from opentelemetry.sdk.trace import TracerProvider

from fleetlimit import telemetry
from fleetlimit.limiter.events import Observer, Observers
from fleetlimit.limiter.ports import Tracer
from fleetlimit.telemetry import DenialLog, EventLog, LimiterTracing, Metrics, TopDenied
from support.telemetry import Lines, MovedClock, decided


def test_observers_fit_the_port() -> None:
    """Metrics, logs and the top list can be told side by side."""
    lines, metrics, top = Lines(), Metrics(), TopDenied()
    clock = MovedClock()
    observers: list[Observer] = [
        metrics,
        top,
        DenialLog(clock, lines.logger, suppressed=metrics.denial_suppressed),
        EventLog(clock, lines.logger),
    ]
    Observers(observers).tell(decided())
    assert lines.written == []
    assert b'fleetlimit_checks_total{outcome="allowed"} 1.0' in metrics.render()[0]


def test_tracing_fits_the_port(provider: TracerProvider) -> None:
    """The limiter's tracer is one of these."""
    tracer: Tracer = LimiterTracing(provider)
    with tracer.check(["a"]) as span:
        span.decided(decided().decision)


def test_public_names_are_sorted_and_there() -> None:
    """Every public name exists, in order."""
    assert telemetry.__all__ == sorted(
        telemetry.__all__, key=lambda name: (name[0].islower(), name)
    )
    assert all(hasattr(telemetry, name) for name in telemetry.__all__)
