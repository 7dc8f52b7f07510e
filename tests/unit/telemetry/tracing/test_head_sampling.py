"""Head sampling: unsampled requests bypass OpenTelemetry's middleware and still have a trace id."""

from typing import Any, Protocol

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.propagators import (
    TraceResponsePropagator,
    set_global_response_propagator,
)
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from fleetlimit.telemetry.tracing.head_sampling import (
    BATCH_SIZE,
    HeadSampler,
    PresetTraceIdGenerator,
)
from fleetlimit.telemetry.tracing.setup import configure_tracing, instrument_app
from fleetlimit.testing import ManualClock

PARENT = "00-{:032x}-{:016x}-{}"

pytestmark = pytest.mark.usefixtures("no_otel_variables")


class Picky(ParentBased):
    """A sampler that decides by the route of a request."""

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, *_args: Any, **_options: Any
    ) -> SamplingResult:
        """Sample one route only."""
        wanted = ALWAYS_ON if name == "GET /" else ALWAYS_OFF
        return wanted.should_sample(parent_context, trace_id, name)


class TracedApp:
    """An app that records the spans of its requests."""

    def __init__(
        self, sampler: Sampler, exporter: InMemorySpanExporter, parents_per_second: int
    ) -> None:
        provider = TracerProvider(sampler=sampler, id_generator=PresetTraceIdGenerator())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        self.app = FastAPI()
        self.seen: list[trace.SpanContext] = []
        self.outgoing: list[bool] = []

        @self.app.get("/")
        async def root() -> None:
            self.seen.append(trace.get_current_span().get_span_context())
            self.outgoing.append(is_http_instrumentation_enabled())

        instrument_app(self.app, provider, parents_per_second=parents_per_second)
        self.client = TestClient(self.app)

    def close(self) -> None:
        """Remove the instrumentation."""
        FastAPIInstrumentor.uninstrument_app(self.app)


@pytest.fixture
def traced(spans: InMemorySpanExporter) -> Any:
    created: list[TracedApp] = []

    def make(sampler: Sampler, parents_per_second: int = 100) -> TracedApp:
        created.append(TracedApp(sampler, spans, parents_per_second))
        return created[-1]

    yield make
    for each in created:
        each.close()


class Make(Protocol):
    """Function that returns an app under a sampler."""

    def __call__(self, sampler: Sampler, parents_per_second: int = 100) -> TracedApp:
        """Return a new app."""
        ...


def test_unsampled_requests_have_an_id_and_no_span(
    traced: Make, spans: InMemorySpanExporter
) -> None:
    """Each has its own unsampled trace, and instrumentation of outgoing calls stays on."""
    traced_app = traced(ParentBased(ALWAYS_OFF))
    for _ in range(2 * BATCH_SIZE):
        traced_app.client.get("/")
    assert spans.get_finished_spans() == ()
    assert all(each.is_valid and not each.trace_flags.sampled for each in traced_app.seen)
    assert len({each.trace_id for each in traced_app.seen}) == 2 * BATCH_SIZE
    assert len({each.span_id for each in traced_app.seen}) == 2 * BATCH_SIZE
    assert traced_app.outgoing == [True] * (2 * BATCH_SIZE)
    assert not trace.get_current_span().get_span_context().is_valid


def test_sampling_decision_uses_the_trace_id_of_the_request(
    traced: Make, spans: InMemorySpanExporter
) -> None:
    """A ratio is kept: the sampler decides once, by the id of the request's trace."""
    half = TraceIdRatioBased(0.5)
    traced_app = traced(ParentBased(half))
    for _ in range(200):
        traced_app.client.get("/")
    sampled = [each.trace_id for each in traced_app.seen if each.trace_flags.sampled]
    assert [each.context.trace_id for each in spans.get_finished_spans() if each.context] == sampled
    assert 50 < len(sampled) < 150
    for each in traced_app.seen:
        expected = (
            half.should_sample(None, each.trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        )
        assert expected is bool(each.trace_flags.sampled)


def test_exception_in_an_unsampled_request_reaches_the_apps_handler(traced: Make) -> None:
    """The exception handler of the app runs whether a request is traced or not."""
    traced_app = traced(ParentBased(ALWAYS_OFF))

    @traced_app.app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("broken")

    @traced_app.app.exception_handler(Exception)
    async def answer(_request: object, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(str(error), 500)

    client = TestClient(traced_app.app, raise_server_exceptions=False)
    assert client.get("/broken").text == "broken"


def test_context_around_the_app_is_kept(traced: Make) -> None:
    """A request keeps the baggage of the surrounding context, sampled or not."""
    traced_app = traced(ParentBased(ALWAYS_OFF))
    found: list[object] = []

    @traced_app.app.get("/baggage")
    async def read_baggage() -> None:
        found.append(baggage.get_baggage("a"))
        found.append(trace.get_current_span().get_span_context().trace_flags.sampled)

    async def around(scope: Any, receive: Any, send: Any) -> None:
        token = context.attach(baggage.set_baggage("a", "b"))
        await traced_app.app(scope, receive, send)
        context.detach(token)

    assert TestClient(around).get("/baggage").status_code == 200
    assert found == ["b", False]


@pytest.mark.parametrize(("flags", "count"), [("01", 1), ("00", 0)])
def test_parent_decides_about_sampling(
    traced: Make, spans: InMemorySpanExporter, flags: str, count: int
) -> None:
    """A request with a sampled parent is sampled, in its parent's trace."""
    traced_app = traced(ParentBased(ALWAYS_OFF))
    traced_app.client.get("/", headers={"traceparent": PARENT.format(7, 8, flags)})
    assert [each.trace_id for each in traced_app.seen] == [7]
    assert len(spans.get_finished_spans()) == count


def get_with_parents(traced_app: TracedApp, number: int, trace_id: int = 7) -> None:
    for _ in range(number):
        traced_app.client.get("/", headers={"traceparent": PARENT.format(trace_id, 8, "01")})


@pytest.mark.parametrize(
    "sampler", [ParentBased(ALWAYS_OFF), ParentBased(TraceIdRatioBased(0)), TraceIdRatioBased(1e-9)]
)
def test_sampled_parents_are_bounded(
    traced: Make, spans: InMemorySpanExporter, log: pytest.LogCaptureFixture, sampler: Sampler
) -> None:
    """A client cannot set the ratio, neither by the flag nor by its trace id; one line says so."""
    traced_app = traced(sampler, parents_per_second=0)
    get_with_parents(traced_app, 50, trace_id=1)
    assert spans.get_finished_spans() == ()
    assert len([line for line in log.messages if "tracing.parents_limited" in line]) == 1
    assert not any(each.trace_flags.sampled for each in traced_app.seen)


def test_sampled_parents_are_obeyed_up_to_the_bound() -> None:
    """The bound is a token bucket of one second."""
    provider = TracerProvider(
        sampler=ParentBased(ALWAYS_OFF),
        id_generator=PresetTraceIdGenerator(),
        shutdown_on_exit=False,
    )
    clock = ManualClock()
    sampler = HeadSampler.for_provider(provider, 3, clock)
    assert sampler is not None
    scope = {"headers": [(b"traceparent", PARENT.format(7, 8, "01").encode())]}
    assert [sampler.decide(scope) is None for _ in range(5)] == [True] * 3 + [False] * 2
    clock.advance(1)
    assert [sampler.decide(scope) is None for _ in range(5)] == [True] * 3 + [False] * 2


def test_sampler_decides_beyond_the_bound(traced: Make, spans: InMemorySpanExporter) -> None:
    """Under a sampler that samples every request, each stays in its parent's trace."""
    traced_app = traced(ParentBased(ALWAYS_ON), parents_per_second=0)
    get_with_parents(traced_app, 20)
    assert {each.trace_id for each in traced_app.seen} == {7}
    assert len(spans.get_finished_spans()) == 20


def test_unsampled_parent_is_continued_without_a_span(
    traced: Make, spans: InMemorySpanExporter
) -> None:
    """Log lines of the request have the trace id of its parent, and its baggage is kept."""
    traced_app = traced(ParentBased(ALWAYS_ON))
    found: list[object] = []

    @traced_app.app.get("/baggage")
    async def read_baggage() -> None:
        found.append(baggage.get_baggage("a"))
        found.append(trace.get_current_span().get_span_context().trace_id)

    headers = {"traceparent": PARENT.format(7, 8, "00"), "baggage": "a=b"}
    traced_app.client.get("/baggage", headers=headers)
    assert found == ["b", 7]
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    "headers", [{"baggage": "a=b"}, {"traceparent": "nonsense"}, {"tracestate": "a=b"}]
)
def test_header_without_a_parent_is_a_root_request(
    traced: Make,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
) -> None:
    """The sampler decides, and an unsampled request bypasses OpenTelemetry's middleware."""
    traced_app = traced(ParentBased(ALWAYS_OFF))
    traced_app.client.get("/")
    passed: list[object] = []
    monkeypatch.setattr(OpenTelemetryMiddleware, "__call__", passed.append)
    assert traced_app.client.get("/", headers=headers).status_code == 200
    assert passed == []
    assert traced_app.seen[-1].is_valid
    assert spans.get_finished_spans() == ()


def test_header_that_is_no_text_is_ignored(traced: Make) -> None:
    """A client cannot cause an error by the bytes of its header."""
    traced_app = traced(ParentBased(ALWAYS_OFF))
    headers = [(b"traceparent", b"\xff\\x")]
    assert traced_app.client.get("/", headers=headers).status_code == 200
    (found,) = traced_app.seen
    assert found.is_valid
    assert not found.trace_flags.sampled


def test_response_propagator_gets_every_request(traced: Make) -> None:
    """A response has the trace id that the app's propagator adds, sampled or not."""
    set_global_response_propagator(TraceResponsePropagator())  # type: ignore[no-untyped-call]
    try:
        traced_app = traced(ParentBased(ALWAYS_OFF))
        response = traced_app.client.get("/")
    finally:
        set_global_response_propagator(None)  # type: ignore[no-untyped-call]
    assert trace.format_trace_id(traced_app.seen[0].trace_id) in response.headers["traceresponse"]


def test_sampler_that_uses_attributes_gets_them(traced: Make, spans: InMemorySpanExporter) -> None:
    """Head sampling is off under a sampler that may use more than the trace id."""
    traced_app = traced(Picky(ALWAYS_OFF))
    traced_app.client.get("/")
    traced_app.client.get("/missing")
    assert [each.name for each in spans.get_finished_spans()] == ["GET /"]


def test_preset_trace_id_is_used_once() -> None:
    """A background task of a request starts a trace of its own."""
    ids = PresetTraceIdGenerator()
    assert ids.generate_trace_id() != ids.generate_trace_id()


@pytest.mark.parametrize(
    ("sampler", "argument"),
    [
        ("always_off", ""),
        ("traceidratio", "0"),
        ("parentbased_always_off", ""),
        ("parentbased_traceidratio", "0"),
    ],
)
def test_samplers_of_the_standard_variables_decide_at_the_head(
    no_otel_variables: pytest.MonkeyPatch, sampler: str, argument: str
) -> None:
    """OpenTelemetry's middleware would ask the sampler again for each request."""
    no_otel_variables.setenv("OTEL_TRACES_EXPORTER", "console")
    no_otel_variables.setenv("OTEL_TRACES_SAMPLER", sampler)
    no_otel_variables.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    provider = configure_tracing("fleetlimit")
    assert provider is not None
    names: list[str] = []
    decide = provider.sampler.should_sample

    def record(parent: Any, trace_id: int, name: str, *_rest: Any) -> SamplingResult:
        names.append(name)
        return decide(parent, trace_id, name)

    no_otel_variables.setattr(provider.sampler, "should_sample", record)
    app = FastAPI()
    instrument_app(app, provider)
    assert TestClient(app).get("/").status_code == 404
    assert names == [""] * BATCH_SIZE
    FastAPIInstrumentor.uninstrument_app(app)
    provider.shutdown()
