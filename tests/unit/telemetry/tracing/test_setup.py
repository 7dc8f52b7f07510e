"""Tracing without the extra `otel`: nothing of it is imported until a variable turns tracing on."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

_WITHOUT_EXTRA = """
import importlib.abc
import sys


class Missing(importlib.abc.MetaPathFinder):
    packages = ("opentelemetry.sdk", "opentelemetry.instrumentation", "opentelemetry.exporter")

    def find_spec(self, name, path, target=None):
        if name.startswith(self.packages):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
"""
_CALLS = """
import json
import os

from fleetlimit.errors import ConfigError
from fleetlimit.telemetry import OpenTelemetryTracer, PrometheusMetrics, configure_tracing
from fleetlimit.telemetry import instrument_app, instrument_asgi

PrometheusMetrics().render()
with OpenTelemetryTracer().start_check(["a"]):
    pass


def result_of(function, *arguments, **variables):
    os.environ.update(variables)
    try:
        return str(function(*arguments))
    except ConfigError as error:
        return str(error)
    finally:
        for name in variables:
            del os.environ[name]


print(json.dumps({
    "off": result_of(configure_tracing, "fleetlimit"),
    "named": result_of(configure_tracing, "fleetlimit", OTEL_SERVICE_NAME="mine"),
    "console": result_of(configure_tracing, "fleetlimit", OTEL_TRACES_EXPORTER="console"),
    "endpoint": result_of(
        configure_tracing, "fleetlimit", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317"
    ),
    "app": result_of(instrument_app, None, None),
    "asgi": result_of(instrument_asgi, None, None, None),
}))
"""


def run(
    code: str, *arguments: str, variables: Mapping[str, str] | None = None, status: int = 0
) -> str:
    """Run code in a process without the packages of the extra, and return its output."""
    process = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRA + code, *arguments],
        env={"PYTHONPATH": os.pathsep.join(sys.path), **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == status, process.stdout
    return process.stdout.strip()


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    """Return the results of `_CALLS`, or the messages of their errors, in one process."""
    found: dict[str, str] = json.loads(run(_CALLS))
    return found


@pytest.mark.parametrize("call", ["off", "named"])
def test_tracing_off_needs_no_extra(results: dict[str, str], call: str) -> None:
    """Without an OTEL_* variable, metrics and check spans work and there is no provider."""
    assert results[call] == "None"


@pytest.mark.parametrize("call", ["console", "endpoint"])
def test_tracing_on_names_the_missing_extra(results: dict[str, str], call: str) -> None:
    """A variable that asks for an exporter is an error with the command to run."""
    assert results[call].startswith("tracing is on, but opentelemetry.")
    assert "pip install 'fleetlimit[otel]'" in results[call]


@pytest.mark.parametrize("call", ["app", "asgi"])
def test_instrumentation_names_the_missing_extra(results: dict[str, str], call: str) -> None:
    """An app cannot be instrumented without the extra, and the error has the command to run."""
    assert "pip install 'fleetlimit[otel]'" in results[call]


def test_serve_names_the_missing_extra() -> None:
    """`fleetlimit serve` does not start without the traces that a variable asks for."""
    message = run(
        "from fleetlimit.cli import main; main()",
        "serve",
        status=1,
        variables={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"},
    )
    assert "pip install 'fleetlimit[otel]'" in message.splitlines()[-1]
