"""Settings that only the server process has; `bootstrap/test_settings.py` has the sources."""

from pathlib import Path

import pytest

from fleetlimit.errors import ConfigError
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


@pytest.mark.parametrize(
    "hosts", ["http://metrics.example.com", "metrics.example.com:9090", "a b", "*evil", "a,.b", "é"]
)
def test_allowed_hosts_must_be_names(hosts: str) -> None:
    """What is not a host name would allow nothing, so it is an error with the form to write."""
    with pytest.raises(ConfigError, match=r"admin_allowed_hosts.* is not a host name: write names"):
        ServerSettings.load(admin_allowed_hosts=hosts)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_head_bytes", 100), ("max_headers", 0), ("head_timeout", 0), ("max_connections", 0)],
)
def test_bounds_on_heads_must_permit_requests(name: str, value: int) -> None:
    """A bound that no request could pass is an error."""
    with pytest.raises(ConfigError, match=f"^{name}: write "):
        ServerSettings.load(**{name: value})
