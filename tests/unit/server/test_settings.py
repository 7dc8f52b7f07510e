"""Settings of the server process."""

from pathlib import Path

import pytest

from fleetlimit.bootstrap.settings import reveal
from fleetlimit.errors import ConfigError
from fleetlimit.server.settings import EXAMPLE_POLICIES, ServerSettings


def test_server_settings_have_defaults() -> None:
    """By default the ports are 8000 and 9090, and the store is in memory."""
    settings = ServerSettings.load()
    assert (settings.port, settings.admin_port, settings.store) == (8000, 9090, "memory://")


def test_server_settings_read_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option of `serve` is a variable, too."""
    for name, value in {
        "TARGET": "shop.main:app",
        "HOST": "127.0.0.1",
        "PORT": "1",
        "ADMIN_HOST": "::1",
        "ADMIN_PORT": "2",
        "STORE": "redis://store",
        "POLICIES": "some.yaml",
    }.items():
        monkeypatch.setenv(f"FLEETLIMIT_{name}", value)
    settings = ServerSettings.load()
    assert (settings.target, settings.host, settings.port) == ("shop.main:app", "127.0.0.1", 1)
    assert (settings.admin_host, settings.admin_port) == ("::1", 2)
    assert (settings.store, settings.policies) == ("redis://store", Path("some.yaml"))


def test_arguments_override_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument overrides the environment; None counts as not given, empty as not set."""
    monkeypatch.setenv("FLEETLIMIT_PORT", "1")
    monkeypatch.setenv("FLEETLIMIT_ADMIN_PORT", "2")
    settings = ServerSettings.load(port=3, admin_port=None)
    assert (settings.port, settings.admin_port) == (3, 2)
    monkeypatch.setenv("FLEETLIMIT_PORT", "")
    assert ServerSettings.load().port == 8000


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


@pytest.mark.parametrize(("text", "token"), [("token\n", "token"), (" \n", None)])
def test_admin_token_is_read_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, token: str | None
) -> None:
    """A final newline of the file is removed; an empty token is none."""
    (tmp_path / "fleetlimit_admin_token").write_text(text)
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    assert reveal(ServerSettings.load().admin_token) == token


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "s3cret"),
        ("ADMIN_PORT", "65536"),
        ("SHUTDOWN_SECONDS", "-1"),
        ("LOG_LEVEL", "s3cret"),
        ("LOG_FORMAT", "s3cret"),
    ],
)
def test_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An error names the variable, and never repeats its value."""
    monkeypatch.setenv(f"FLEETLIMIT_{name}", value)
    with pytest.raises(ConfigError) as raised:
        ServerSettings.load()
    assert f"FLEETLIMIT_{name}: " in str(raised.value)
    assert "s3cret" not in str(raised.value)
