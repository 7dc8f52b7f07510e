"""A request that is not sampled passes by what would trace it, and still has a trace's id."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
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

from fleetlimit.telemetry.tracing.head_sampling import BATCH_SIZE, PresetTraceIdGenerator
from fleetlimit.telemetry.tracing.setup import configure_tracing, instrument_app

PARENT = "00-{:032x}-{:016x}-{}"

pytestmark = pytest.mark.usefixtures("no_otel_variables")


class Picky(ParentBased):
    """A sampler that looks at a request's route."""

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, *_args: Any, **_options: Any
    ) -> SamplingResult:
        """Want one route only."""
        wanted = ALWAYS_ON if name == "GET /" else ALWAYS_OFF
        return wanted.should_sample(parent_context, trace_id, name)


class Traced:
    """An app that tells of the span that its requests have."""

    def __init__(self, sampler: Sampler, exporter: InMemorySpanExporter) -> None:
        provider = TracerProvider(sampler=sampler, id_generator=PresetTraceIdGenerator())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        self.app = FastAPI()
        self.seen: list[trace.SpanContext] = []
        self.outgoing: list[bool] = []

        @self.app.get("/")
        async def root() -> None:
            self.seen.append(trace.get_current_span().get_span_context())
            self.outgoing.append(is_http_instrumentation_enabled())

        instrument_app(self.app, provider)
        self.client = TestClient(self.app)

    def close(self) -> None:
        """Take the instrumentation off."""
        FastAPIInstrumentor.uninstrument_app(self.app)


@pytest.fixture
def traced(spans: InMemorySpanExporter) -> Any:
    made: list[Traced] = []

    def make(sampler: Sampler) -> Traced:
        made.append(Traced(sampler, spans))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[[Sampler], Traced]


def test_unsampled_requests_have_an_id_and_no_span(
    traced: Make, spans: InMemorySpanExporter
) -> None:
    """Each is another trace that is not sampled, and what it calls is instrumented as ever."""
    made = traced(ParentBased(ALWAYS_OFF))
    for _ in range(2 * BATCH_SIZE):
        made.client.get("/")
    assert spans.get_finished_spans() == ()
    assert all(each.is_valid and not each.trace_flags.sampled for each in made.seen)
    assert len({each.trace_id for each in made.seen}) == 2 * BATCH_SIZE
    assert len({each.span_id for each in made.seen}) == 2 * BATCH_SIZE
    assert made.outgoing == [True] * (2 * BATCH_SIZE)
    assert not trace.get_current_span().get_span_context().is_valid


def test_sampled_requests_are_those_whose_ids_say_so(
    traced: Make, spans: InMemorySpanExporter
) -> None:
    """A ratio is kept: a request is judged once, by the id that its trace then has."""
    half = TraceIdRatioBased(0.5)
    made = traced(ParentBased(half))
    for _ in range(200):
        made.client.get("/")
    sampled = [each.trace_id for each in made.seen if each.trace_flags.sampled]
    assert [each.context.trace_id for each in spans.get_finished_spans() if each.context] == sampled
    assert 50 < len(sampled) < 150
    for each in made.seen:
        judged = half.should_sample(None, each.trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        assert judged is bool(each.trace_flags.sampled)


def test_an_unsampled_request_that_fails_is_answered_by_the_apps_own_handler(traced: Make) -> None:
    """What the app does with an exception does not depend on whether it is traced."""
    made = traced(ParentBased(ALWAYS_OFF))

    @made.app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("broken")

    @made.app.exception_handler(Exception)
    async def answer(_request: object, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(str(error), 500)

    client = TestClient(made.app, raise_server_exceptions=False)
    assert client.get("/broken").text == "broken"


def test_what_is_current_around_the_app_stays_so(traced: Make) -> None:
    """A request within other work keeps what that work has made current, sampled or not."""
    made = traced(ParentBased(ALWAYS_OFF))
    found: list[object] = []

    @made.app.get("/baggage")
    async def told() -> None:
        found.append(baggage.get_baggage("a"))
        found.append(trace.get_current_span().get_span_context().trace_flags.sampled)

    async def around(scope: Any, receive: Any, send: Any) -> None:
        token = context.attach(baggage.set_baggage("a", "b"))
        await made.app(scope, receive, send)
        context.detach(token)

    assert TestClient(around).get("/baggage").status_code == 200
    assert found == ["b", False]


@pytest.mark.parametrize(("flags", "count"), [("01", 1), ("00", 0)])
def test_the_callers_word_goes_before_ours(
    traced: Make, spans: InMemorySpanExporter, flags: str, count: int
) -> None:
    """A request with a parent is sampled if its parent is, in its parent's trace."""
    made = traced(ParentBased(ALWAYS_OFF))
    made.client.get("/", headers={"traceparent": PARENT.format(7, 8, flags)})
    assert [each.trace_id for each in made.seen] == [7]
    assert len(spans.get_finished_spans()) == count


def test_a_sampler_that_looks_at_requests_is_shown_them(
    traced: Make, spans: InMemorySpanExporter
) -> None:
    """Under one that is not known to go by the id alone, nothing is changed."""
    made = traced(Picky(ALWAYS_OFF))
    made.client.get("/")
    made.client.get("/missing")
    assert [each.name for each in spans.get_finished_spans()] == ["GET /"]


def test_what_a_request_leaves_running_begins_traces_of_its_own() -> None:
    """The id that a request was judged by is used once."""
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
def test_the_standard_variables_samplers_are_asked_at_the_head(
    no_otel_variables: pytest.MonkeyPatch, sampler: str, argument: str
) -> None:
    """OpenTelemetry's middleware would ask again for a request that is passed on to it."""
    no_otel_variables.setenv("OTEL_TRACES_EXPORTER", "console")
    no_otel_variables.setenv("OTEL_TRACES_SAMPLER", sampler)
    no_otel_variables.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    provider = configure_tracing("fleetlimit")
    assert provider is not None
    asked: list[str] = []
    judge = provider.sampler.should_sample

    def ask(parent: Any, trace_id: int, name: str, *_rest: Any) -> SamplingResult:
        asked.append(name)
        return judge(parent, trace_id, name)

    no_otel_variables.setattr(provider.sampler, "should_sample", ask)
    app = FastAPI()
    instrument_app(app, provider)
    assert TestClient(app).get("/").status_code == 404
    assert asked == [""] * BATCH_SIZE
    FastAPIInstrumentor.uninstrument_app(app)
    provider.shutdown()
