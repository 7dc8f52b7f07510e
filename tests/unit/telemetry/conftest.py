"""Fixtures of the environment of the process."""

import os

import pytest


@pytest.fixture
def no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove all OTEL_* and POD_* variables, and let the test set its own."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "POD_")):
            monkeypatch.delenv(name)
    return monkeypatch
