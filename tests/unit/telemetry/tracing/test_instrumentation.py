"""Requests and store calls are traced, and a refusal is not an error."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio
from fastapi import FastAPI, Response
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fleetlimit.telemetry.tracing.instrumentation import instrument_app, instrument_redis
from fleetlimit.telemetry.tracing.limiter import LimiterTracing

pytestmark = pytest.mark.usefixtures("no_otel_variables")


@pytest.fixture
def app(provider: TracerProvider, no_otel_variables: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    no_otel_variables.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
    app = FastAPI()

    @app.get("/items/{item}")
    async def item(item: str) -> Response:
        return Response(status_code=int(item))

    instrument_app(app, provider)
    yield app
    FastAPIInstrumentor.uninstrument_app(app)


async def get(app: FastAPI, path: str) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 1),
        "server": ("testserver", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(_message: Any) -> None:
        pass

    await app(scope, receive, send)


class QuietPipeline:
    """A pipeline that answers every command without a server."""

    def __init__(self, *commands: str) -> None:
        self.command_stack = [((command, "sha"), None) for command in commands]

    async def execute(self) -> list[int]:
        """Answer 1 to each command."""
        return [1] * len(self.command_stack)

    async def immediate_execute_command(self) -> None:
        """Stand for what the instrumentation also wraps."""


class QuietRedis(redis.asyncio.Redis):
    """A client that answers every command without a server."""

    async def execute_command(self, *_args: Any, **_options: Any) -> int:
        """Answer 1."""
        return 1

    def pipeline(self, *commands: str) -> Any:  # type: ignore[override] # commands are enough here
        """Return a pipeline that holds these commands."""
        return QuietPipeline(*commands)


async def test_request_is_a_span_by_route_template(
    app: FastAPI, spans: InMemorySpanExporter
) -> None:
    """A request makes one server span, named by the template, with the stable attribute names."""
    await get(app, "/items/200")
    (span,) = spans.get_finished_spans()
    assert span.name == "GET /items/{item}"
    assert span.kind is trace.SpanKind.SERVER
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["http.route"] == "/items/{item}"


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, trace.StatusCode.UNSET), (503, trace.StatusCode.ERROR)],
)
async def test_refusal_is_not_an_error(
    app: FastAPI, spans: InMemorySpanExporter, status: int, code: trace.StatusCode
) -> None:
    """A 429 leaves the span's status unset; a 503 is an error."""
    await get(app, f"/items/{status}")
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is code


async def test_store_call_is_a_child_of_the_check(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """A command inside a check is a client span below the check's, without its arguments."""
    client = QuietRedis()
    instrument_redis(client, provider)
    with LimiterTracing(provider).check(["a"]):
        await client.execute_command("EVALSHA", "sha", 1, "fl1:secret")
    call, check = spans.get_finished_spans()
    assert (call.name, call.kind) == ("EVALSHA", trace.SpanKind.CLIENT)
    assert call.parent is not None
    assert call.parent.span_id == check.context.span_id
    assert "secret" not in call.to_json()


@pytest.mark.parametrize(
    ("commands", "name", "size"),
    [
        (["EVALSHA"], "EVALSHA", None),
        (["EVALSHA"] * 3, "PIPELINE EVALSHA", 3),
        (["EVALSHA", "PING"], "EVALSHA PING", None),
    ],
)
async def test_batch_is_named_after_its_command(
    provider: TracerProvider,
    spans: InMemorySpanExporter,
    commands: list[str],
    name: str,
    size: int | None,
) -> None:
    """A batch of any size has one name, and its size is an attribute."""
    client = QuietRedis()
    instrument_redis(client, provider)
    await client.pipeline(*commands).execute()
    (span,) = spans.get_finished_spans()
    assert span.name == name
    assert span.attributes is not None
    assert span.attributes.get("db.operation.batch.size") == size


async def test_other_clients_are_not_traced(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Tracing one client leaves the application's own clients alone."""
    instrument_redis(QuietRedis(), provider)
    await QuietRedis().execute_command("PING")
    assert spans.get_finished_spans() == ()


def test_stable_names_are_asked_for_unless_told_otherwise(
    provider: TracerProvider, no_otel_variables: pytest.MonkeyPatch
) -> None:
    """The opt-in to stable names is set where the operator has not set it."""
    no_otel_variables.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup")
    instrument_redis(QuietRedis(), provider)
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http/dup"
    no_otel_variables.delenv("OTEL_SEMCONV_STABILITY_OPT_IN")
    instrument_redis(QuietRedis(), provider)
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http,database"
    del os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"]
