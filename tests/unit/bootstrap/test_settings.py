"""Settings from arguments, variables and files; none of them is echoed when it is a secret."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from fleetlimit.bootstrap.settings import Settings, reveal
from fleetlimit.errors import ConfigError
from fleetlimit.web.ratelimit_headers import HeaderFormat


def test_defaults() -> None:
    """Without a word the ports are 8000 and 9090 and the store is this process."""
    settings = Settings.load()
    assert (settings.port, settings.admin_port, settings.store) == (8000, 9090, "memory://")
    assert settings.policies is None
    assert settings.headers is HeaderFormat.DRAFT_11


def test_variables_of_the_issue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option of `serve` is a variable too."""
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
    settings = Settings.load()
    assert (settings.target, settings.host, settings.port) == ("shop.main:app", "127.0.0.1", 1)
    assert (settings.admin_host, settings.admin_port) == ("::1", 2)
    assert (settings.store, settings.policies) == ("redis://store", Path("some.yaml"))


def test_arguments_before_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given goes before the environment; None counts as not given."""
    monkeypatch.setenv("FLEETLIMIT_PORT", "1")
    monkeypatch.setenv("FLEETLIMIT_ADMIN_PORT", "2")
    settings = Settings.load(port=3, admin_port=None)
    assert (settings.port, settings.admin_port) == (3, 2)


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FLEETLIMIT_POLICIES=` names no file, least of all the directory one is in."""
    monkeypatch.setenv("FLEETLIMIT_POLICIES", "")
    monkeypatch.setenv("FLEETLIMIT_PORT", "")
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", "")
    settings = Settings.load()
    assert (settings.policies, settings.port, settings.key_secret) == (None, 8000, None)


@pytest.mark.parametrize("name", ["FLEETLIMIT_POD", "POD_NAME"])
def test_name_of_the_pod(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The pod's name is Fleetlimit's own variable, or the one usual in Kubernetes; never `POD`."""
    monkeypatch.setenv("POD", "another")
    assert Settings.load().pod == ""
    monkeypatch.setenv(name, "web-1")
    assert Settings.load().pod == "web-1"
    assert Settings.load(pod="web-2").pod == "web-2"


def test_secrets_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file named as its variable holds the secret, without the line break at its end."""
    (tmp_path / "fleetlimit_key_secret").write_text("0123456789abcdef\n")
    (tmp_path / "fleetlimit_admin_token").write_text("token\n")
    (tmp_path / "fleetlimit_store_password").write_text("\n")
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    settings = Settings.load()
    assert reveal(settings.key_secret) == "0123456789abcdef"
    assert reveal(settings.admin_token) == "token"
    assert reveal(settings.store_password) is None
    assert "0123456789abcdef" not in repr(settings)


def test_no_such_directory_of_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory that is not there is an error, and no reason to go on without secrets."""
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"FLEETLIMIT_SECRETS_DIR: there is no directory .*gone"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "s3cret"),
        ("ADMIN_PORT", "65536"),
        ("STORE_TIMEOUT", "0"),
        ("SHUTDOWN_SECONDS", "-1"),
        ("BREAKER_FAILURES", "0"),
        ("AUDIT_KEYS", "1001"),
        ("HEADERS", "s3cret"),
        ("LOG_LEVEL", "s3cret"),
        ("LOG_FORMAT", "s3cret"),
    ],
)
def test_bad_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An error names the variable and never repeats its value."""
    monkeypatch.setenv(f"FLEETLIMIT_{name}", value)
    with pytest.raises(ConfigError) as refused:
        Settings.load()
    assert f"FLEETLIMIT_{name}: " in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_every_bad_value_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All wrong variables are named, not only the first."""
    monkeypatch.setenv("FLEETLIMIT_PORT", "many")
    monkeypatch.setenv("FLEETLIMIT_HEADERS", "french")
    with pytest.raises(ConfigError, match=r"FLEETLIMIT_PORT: .*; FLEETLIMIT_HEADERS: "):
        Settings.load()


def test_secret_of_nothing() -> None:
    """No secret and an empty one are the same."""
    assert reveal(None) is None
    assert reveal(SecretStr(" \n")) is None
