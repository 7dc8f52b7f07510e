"""Settings that only the server process has; `bootstrap/test_settings.py` has the sources."""

from pathlib import Path

import pytest

from fleetlimit.server.settings import EXAMPLE_POLICIES, ServerSettings


def test_server_settings_have_defaults() -> None:
    """By default the ports are 8000 and 9090, and the store is in memory."""
    settings = ServerSettings.load()
    assert (settings.port, settings.admin_port, settings.store) == (8000, 9090, "memory://")


def test_example_app_has_default_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a target and a policy file, the example app's policies apply."""
    assert ServerSettings.load().policies == EXAMPLE_POLICIES
    assert ServerSettings.load(target="shop.main:app").policies is None
    monkeypatch.setenv("FLEETLIMIT_POLICIES", "some.yaml")
    assert ServerSettings.load().policies == Path("some.yaml")


@pytest.mark.parametrize("name", ["FLEETLIMIT_POD", "POD_NAME"])
def test_pod_has_two_variables(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The pod's name is read from `FLEETLIMIT_POD` or `POD_NAME`, never from `POD`."""
    monkeypatch.setenv("POD", "another")
    assert ServerSettings.load().pod == ""
    monkeypatch.setenv(name, "web-1")
    assert ServerSettings.load().pod == "web-1"
    assert ServerSettings.load(pod="web-2").pod == "web-2"
