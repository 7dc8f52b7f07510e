"""Prometheus collectors made from their specifications in `names`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fleetlimit.telemetry.names import MetricSpec


def counter(spec: MetricSpec, registry: CollectorRegistry) -> Counter:
    """Register a counter."""
    return Counter(spec.name, spec.help, spec.labels, registry=registry)


def gauge(spec: MetricSpec, registry: CollectorRegistry) -> Gauge:
    """Register a gauge."""
    return Gauge(spec.name, spec.help, spec.labels, registry=registry)


def histogram(spec: MetricSpec, registry: CollectorRegistry) -> Histogram:
    """Register a histogram with the buckets of its specification."""
    return Histogram(spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)
