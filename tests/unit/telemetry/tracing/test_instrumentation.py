"""Server spans of requests."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Response
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fleetlimit.telemetry.tracing.setup import instrument_app

pytestmark = pytest.mark.usefixtures("no_otel_variables")


@pytest.fixture
def app(provider: TracerProvider, no_otel_variables: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    no_otel_variables.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
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


async def test_request_span_is_named_by_the_route_template(
    app: FastAPI, spans: InMemorySpanExporter
) -> None:
    """A request creates one server span, with the stable attribute names."""
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
async def test_429_is_not_an_error(
    app: FastAPI, spans: InMemorySpanExporter, status: int, code: trace.StatusCode
) -> None:
    """A 429 leaves the span's status unset; a 503 is an error."""
    await get(app, f"/items/{status}")
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is code


def test_stable_attribute_names_are_the_default(
    provider: TracerProvider, no_otel_variables: pytest.MonkeyPatch
) -> None:
    """The opt-in is set unless the operator has set the variable."""
    no_otel_variables.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup")
    instrument_app(FastAPI(), provider)
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http/dup"
    no_otel_variables.delenv("OTEL_SEMCONV_STABILITY_OPT_IN")
    instrument_app(FastAPI(), provider)
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http"
    del os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"]
