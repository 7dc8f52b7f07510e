"""Tracer provider with the exporters, batch sizes and resource of the `OTEL_*` variables."""

import uuid
from collections.abc import Callable, Sequence

from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from fleetlimit.errors import ConfigError
from fleetlimit.telemetry.tracing.environment import first_set
from fleetlimit.telemetry.tracing.head_sampling import PresetTraceIdGenerator
from fleetlimit.telemetry.tracing.span_processor import (
    MAX_EXPORT_BATCH_SIZE,
    MAX_QUEUE_SIZE,
    CountingBatchSpanProcessor,
)

_PROTOCOLS = (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL)
_POD_ATTRIBUTES = {"k8s.pod.name": "POD_NAME", "k8s.namespace.name": "POD_NAMESPACE"}


def build_provider(
    exporters: Sequence[str],
    service_name: str,
    *,
    version: str,
    instance: str,
    on_dropped: Callable[[int], None],
) -> TracerProvider:
    """Build a provider for these exporters; see `configure_tracing` for the other arguments."""
    span_exporters = [_exporter(name) for name in exporters]
    max_queue_size = _positive_int(OTEL_BSP_MAX_QUEUE_SIZE, MAX_QUEUE_SIZE)
    max_export_batch_size = _positive_int(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, MAX_EXPORT_BATCH_SIZE)
    resource = _resource(service_name, version, instance)
    provider = TracerProvider(resource=resource, id_generator=PresetTraceIdGenerator())
    for exporter in span_exporters:
        provider.add_span_processor(
            CountingBatchSpanProcessor(
                exporter,
                on_dropped,
                max_queue_size=max_queue_size,
                max_export_batch_size=max_export_batch_size,
            )
        )
    return provider


def _positive_int(variable: str, default: int) -> int:
    text = first_set(variable) or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{variable}={text!r} is not a number of spans: write one above 0")
    return int(text)


def _exporter(name: str) -> SpanExporter:
    match name:
        case "otlp":
            return _otlp_exporter(first_set(*_PROTOCOLS) or "grpc")
        case "console":
            return ConsoleSpanExporter()
        case _:
            raise ConfigError(
                f"{OTEL_TRACES_EXPORTER}={name!r} is not known: write otlp, console or none"
            )


def _otlp_exporter(protocol: str) -> SpanExporter:
    match protocol:
        case "grpc":
            from opentelemetry.exporter.otlp.proto.grpc import (  # noqa: PLC0415 - 80 ms, if used
                trace_exporter as grpc,
            )

            return grpc.OTLPSpanExporter()
        case "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415 - only if used
                trace_exporter as http,
            )

            return http.OTLPSpanExporter()
        case _:
            raise ConfigError(
                f"{OTEL_EXPORTER_OTLP_PROTOCOL}={protocol!r} is not known: write grpc or "
                "http/protobuf"
            )


def _resource(service_name: str, version: str, instance: str) -> Resource:
    pod = {name: first_set(variable) for name, variable in _POD_ATTRIBUTES.items()}
    attributes = {
        "service.name": service_name,
        "service.version": version,
        "service.instance.id": instance or pod["k8s.pod.name"] or str(uuid.uuid4()),
        **pod,
    }
    given = {name: value for name, value in attributes.items() if value}
    # `Resource.create` prefers its arguments to the variables; the merge reverses that.
    return Resource.create(given).merge(OTELResourceDetector().detect())
