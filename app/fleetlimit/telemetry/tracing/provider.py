"""Exports traces where the standard OTEL_* variables say, and nowhere when they say nothing."""

import os
import uuid
from collections.abc import Callable

from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from fleetlimit.errors import ConfigError
from fleetlimit.telemetry.tracing.head_sampling import PresetTraceIdGenerator
from fleetlimit.telemetry.tracing.span_processor import (
    MAX_EXPORT_BATCH_SIZE,
    MAX_QUEUE_SIZE,
    CountingBatchSpanProcessor,
)

_ENDPOINTS = (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
_PROTOCOLS = (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL)
_POD_ATTRIBUTES = {"k8s.pod.name": "POD_NAME", "k8s.namespace.name": "POD_NAMESPACE"}


def configure_tracing(
    service_name: str,
    *,
    version: str = "",
    instance: str = "",
    on_dropped: Callable[[int], None] = lambda _: None,
) -> TracerProvider | None:
    """Build what spans are sent with; it is not made the process's global provider.

    The sampler, the limits and the batch sizes follow their OTEL_* variables too. What
    OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before the arguments.

    Args:
        service_name: `service.name` of the resource.
        version: `service.version`, when given.
        instance: `service.instance.id`; the pod's name or a random one when left out.
        on_dropped: Told how many spans were not delivered, from any thread.

    Returns:
        A provider that its owner shuts down, or None when neither an exporter nor an endpoint is
        set, or tracing is switched off.

    Raises:
        ConfigError: A variable names an exporter or a protocol that there is not, or no size.
    """
    exporters = _exporters()
    if not exporters:
        return None
    max_queue_size = _positive_int(OTEL_BSP_MAX_QUEUE_SIZE, MAX_QUEUE_SIZE)
    max_export_batch_size = _positive_int(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, MAX_EXPORT_BATCH_SIZE)
    resource = _resource(service_name, version, instance)
    provider = TracerProvider(resource=resource, id_generator=PresetTraceIdGenerator())
    for exporter in exporters:
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
    text = _first_set(variable) or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{variable}={text!r} is not a number of spans: write one above 0")
    return int(text)


def _exporters() -> list[SpanExporter]:
    if _first_set(OTEL_SDK_DISABLED).lower() == "true":
        return []
    chosen = _first_set(OTEL_TRACES_EXPORTER) or ("otlp" if _first_set(*_ENDPOINTS) else "none")
    return [
        _exporter(name) for part in chosen.split(",") if (name := part.strip()) not in {"", "none"}
    ]


def _exporter(name: str) -> SpanExporter:
    match name:
        case "otlp":
            return _otlp_exporter(_first_set(*_PROTOCOLS) or "grpc")
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
    pod = {name: _first_set(variable) for name, variable in _POD_ATTRIBUTES.items()}
    attributes = {
        "service.name": service_name,
        "service.version": version,
        "service.instance.id": instance or pod["k8s.pod.name"] or str(uuid.uuid4()),
        **pod,
    }
    given = {name: value for name, value in attributes.items() if value}
    # Resource.create lets its arguments win, so what the operator said is laid over them again.
    return Resource.create(given).merge(OTELResourceDetector().detect())


def _first_set(*variables: str) -> str:
    """Return the first of these variables that is set and not empty."""
    return next((text for name in variables if (text := os.environ.get(name, "").strip())), "")
