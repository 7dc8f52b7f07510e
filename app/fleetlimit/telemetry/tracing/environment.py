"""Environment variables of tracing, read without OpenTelemetry's SDK."""

import os

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def exporter_names() -> list[str]:
    """Return the exporters that the variables name; none when tracing is off."""
    if first_set("OTEL_SDK_DISABLED").lower() == "true":
        return []
    default = "otlp" if first_set(*_ENDPOINTS) else "none"
    names = (first_set("OTEL_TRACES_EXPORTER") or default).split(",")
    return [name.strip() for name in names if name.strip() not in {"", "none"}]


def first_set(*variables: str) -> str:
    """Return the value of the first of these variables that is set and not empty."""
    return next((text for name in variables if (text := os.environ.get(name, "").strip())), "")
