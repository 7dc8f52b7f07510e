"""Tracing without the extra `otel`: nothing of it is imported until a variable turns tracing on."""

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
_CONFIGURE = """
from fleetlimit.errors import ConfigError
from fleetlimit.telemetry import OpenTelemetryTracer, PrometheusMetrics, configure_tracing

PrometheusMetrics().render()
with OpenTelemetryTracer().start_check(["a"]):
    pass
try:
    print(configure_tracing("fleetlimit"))
except ConfigError as error:
    print(error)
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


def test_tracing_off_needs_no_extra() -> None:
    """Without an OTEL_* variable, metrics and check spans work and there is no provider."""
    assert run(_CONFIGURE) == "None"
    assert run(_CONFIGURE, variables={"OTEL_SERVICE_NAME": "mine"}) == "None"


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_TRACES_EXPORTER": "console"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}],
)
def test_tracing_on_names_the_missing_extra(variables: dict[str, str]) -> None:
    """A variable that asks for an exporter is an error with the command to run."""
    message = run(_CONFIGURE, variables=variables)
    assert message.startswith("tracing is on, but opentelemetry.")
    assert "pip install 'fleetlimit[otel]'" in message


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("instrument_app", "None, None"), ("instrument_asgi", "None, None, None")],
)
def test_instrumentation_names_the_missing_extra(name: str, arguments: str) -> None:
    """An app cannot be instrumented without the extra, and the error has the command to run."""
    message = run(
        "from fleetlimit.errors import ConfigError\n"
        f"from fleetlimit.telemetry import {name}\n"
        "try:\n"
        f"    {name}({arguments})\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    assert "pip install 'fleetlimit[otel]'" in message


def test_serve_names_the_missing_extra() -> None:
    """`fleetlimit serve` does not start without the traces that a variable asks for."""
    message = run(
        "from fleetlimit.cli import main; main()",
        "serve",
        status=1,
        variables={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"},
    )
    assert "pip install 'fleetlimit[otel]'" in message.splitlines()[-1]
