"""Tracer provider described by the standard variables."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from fleetlimit.errors import ConfigError
from fleetlimit.telemetry.tracing.setup import configure_tracing
from fleetlimit.telemetry.tracing.span_processor import CountingBatchSpanProcessor

HTTP_PORT, GRPC_PORT = "http://127.0.0.1:4318", "http://127.0.0.1:4317"


class Environment:
    """Variables of a test, and the providers provider from them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._providers: list[TracerProvider] = []

    def tracing(self, instance: str = "", **variables: str) -> TracerProvider | None:
        """Set the variables and configure tracing."""
        for name, text in variables.items():
            self._monkeypatch.setenv(name, text)
        provider = configure_tracing("fleetlimit", version="1.2.3", instance=instance)
        if provider:
            self._providers.append(provider)
        return provider

    def exporters(self, **variables: str) -> list[type[SpanExporter]]:
        """Return the types of the exporters that these variables select."""
        return [
            type(processor._counting_exporter.exporter)
            for processor in self.processors(**variables)
        ]

    def processors(self, **variables: str) -> list[CountingBatchSpanProcessor]:
        """Return the span processors that these variables select."""
        provider = self.tracing(**variables)
        processors = provider._active_span_processor._span_processors if provider else ()
        return [
            processor
            for processor in processors
            if isinstance(processor, CountingBatchSpanProcessor)
        ]

    def resource(self, instance: str = "", **variables: str) -> dict[str, object]:
        """Return the resource attributes that these variables describe."""
        provider = self.tracing(instance, OTEL_TRACES_EXPORTER="console", **variables)
        assert provider is not None
        return dict(provider.resource.attributes)

    def close(self) -> None:
        """Shut down all providers."""
        for provider in self._providers:
            provider.shutdown()


@pytest.fixture
def environment(no_otel_variables: pytest.MonkeyPatch) -> Iterator[Environment]:
    environment = Environment(no_otel_variables)
    yield environment
    environment.close()


def test_tracing_is_off_without_an_exporter(environment: Environment) -> None:
    """Without a variable that names an exporter or an endpoint, there is no provider."""
    assert environment.tracing() is None
    assert environment.tracing(OTEL_TRACES_SAMPLER="always_on") is None


@pytest.mark.parametrize(
    "switch", [{"OTEL_SDK_DISABLED": "True"}, {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_tracing_can_be_switched_off(environment: Environment, switch: dict[str, str]) -> None:
    """The switches override an endpoint."""
    assert environment.tracing(OTEL_EXPORTER_OTLP_ENDPOINT=GRPC_PORT, **switch) is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": GRPC_PORT}, [Grpc]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": GRPC_PORT}, [Grpc]),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": HTTP_PORT,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            [Http],
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": HTTP_PORT,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            [Http],
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, [Grpc]),
        ({"OTEL_TRACES_EXPORTER": "console"}, [ConsoleSpanExporter]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, [ConsoleSpanExporter, Grpc]),
    ],
)
def test_standard_variables_choose_the_exporter(
    environment: Environment, variables: dict[str, str], expected: list[type[SpanExporter]]
) -> None:
    """Endpoint, protocol and exporter variables mean what OpenTelemetry specifies."""
    assert environment.exporters(**variables) == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "write otlp, console or none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "write grpc or http/protobuf",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "many"},
            "OTEL_BSP_MAX_QUEUE_SIZE='many' is not a number of spans",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "0"},
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE='0' is not a number of spans",
        ),
    ],
)
def test_invalid_variables_are_errors(
    environment: Environment, variables: dict[str, str], message: str
) -> None:
    """An unknown exporter or protocol or an invalid size is an error with the values to write."""
    with pytest.raises(ConfigError, match=message):
        environment.tracing(**variables)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (2048, 512)),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, (100, 100)),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7"}, (100, 7)),
    ],
)
def test_sizes_follow_their_variables(
    environment: Environment, variables: dict[str, str], expected: tuple[int, int]
) -> None:
    """Queue and batch have the sizes of their variables, and no batch is larger than its queue."""
    (processor,) = environment.processors(OTEL_TRACES_EXPORTER="console", **variables)
    sizes = processor._batch_processor
    assert (sizes._max_queue_size, sizes._max_export_batch_size) == expected


def test_sampler_follows_its_variable(environment: Environment) -> None:
    """OTEL_TRACES_SAMPLER chooses the sampler."""
    provider = environment.tracing(OTEL_TRACES_EXPORTER="console", OTEL_TRACES_SAMPLER="always_off")
    assert provider is not None
    assert provider.sampler is ALWAYS_OFF


def test_resource_names_service_and_pod(environment: Environment) -> None:
    """Spans carry service, version, instance, pod and namespace; the pod is the instance."""
    found = environment.resource(POD_NAME="fleetlimit-0", POD_NAMESPACE="edge")
    expected = {
        "service.name": "fleetlimit",
        "service.version": "1.2.3",
        "service.instance.id": "fleetlimit-0",
        "k8s.pod.name": "fleetlimit-0",
        "k8s.namespace.name": "edge",
    }
    assert expected.items() <= found.items()


def test_resource_variables_override_the_arguments(environment: Environment) -> None:
    """The operator's OTEL_* variables override the attributes of the program."""
    found = environment.resource(
        OTEL_SERVICE_NAME="mine", OTEL_RESOURCE_ATTRIBUTES="k8s.pod.name=p,service.version=9"
    )
    assert (found["service.name"], found["service.version"]) == ("mine", "9")
    assert found["k8s.pod.name"] == "p"


def test_instances_differ_without_a_pod(environment: Environment) -> None:
    """Without a pod each process is an instance of its own, or the one of its argument."""
    one, other = environment.resource(), environment.resource()
    assert one["service.instance.id"] != other["service.instance.id"]
    assert "k8s.pod.name" not in one
    assert environment.resource("replica-7")["service.instance.id"] == "replica-7"


def test_provider_is_not_made_global(environment: Environment) -> None:
    """The application's global provider is unchanged."""
    provider = environment.tracing(OTEL_TRACES_EXPORTER="console")
    assert trace.get_tracer_provider() is not provider
