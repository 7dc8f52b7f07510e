"""Server spans of requests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Response
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import fleetlimit
import support
from fleetlimit.telemetry.tracing.setup import instrument_app
from support.traced_apps import get

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


def run(command: str) -> Any:
    """Run `support.traced_apps` in a process with its own global providers."""
    paths = [str(Path(each.__path__[0]).parent) for each in (fleetlimit, support)]
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "support.traced_apps", command],
        env={"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


BY_SERVE, BY_THE_APP = [[10, 0], [0, 0]], [[0, 10], [0, 10]]


def test_app_without_a_global_provider_has_one_server_span() -> None:
    """The spans are those of `serve`, unless the app is instrumented; ten requests were sent."""
    assert run("never") == {
        "plain": BY_SERVE,
        "instrumented": BY_THE_APP,
        "with_middleware": BY_THE_APP,
        "with_middleware_function": BY_THE_APP,
        "wrapped": BY_THE_APP,
        "mounting": BY_SERVE,
        "starlette": BY_SERVE,
        "hidden": BY_SERVE,
        "instrumented_mounting": BY_THE_APP,
        "starlette_with_middleware": BY_THE_APP,
        "wrapped_function": BY_THE_APP,
    }


@pytest.mark.skipif(
    "telemetry" not in FastAPI.__init__.__annotations__, reason="FastAPI 0.142 traces by itself"
)
@pytest.mark.parametrize("when", ["import", "lifespan"])
def test_app_with_a_global_provider_has_one_server_span(when: str) -> None:
    """FastAPI traces by itself, whenever the app sets the provider; our ratio does not apply."""
    assert run(when) == {
        "plain": BY_THE_APP,
        "instrumented": BY_THE_APP,
        "with_middleware": BY_THE_APP,
        "with_middleware_function": BY_THE_APP,
        # Without `serve`, OpenTelemetry's middleware and FastAPI each create a span.
        "wrapped": BY_THE_APP,
        "mounting": BY_THE_APP,
        "starlette": BY_THE_APP,
        "hidden": BY_SERVE,
        "instrumented_mounting": BY_THE_APP,
        "starlette_with_middleware": BY_THE_APP,
        "wrapped_function": BY_THE_APP,
    }


def test_unsampled_requests_are_measured() -> None:
    """With a meter provider, every request is in the histogram, sampled or not."""
    assert run("metrics") == {"plain": 10, "hidden": 10, "with_middleware_function": 10}
