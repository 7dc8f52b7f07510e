"""Settings of a limiter and of a server, from arguments, variables and files."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from fleetlimit.bootstrap.settings import Settings, reveal
from fleetlimit.errors import ConfigError
from fleetlimit.server.settings import ServerSettings
from fleetlimit.web.ratelimit_headers import HeaderFormat


def test_settings_have_defaults() -> None:
    """By default the store is in memory, and there is no policy file."""
    settings = Settings.load()
    assert (settings.store, settings.policies) == ("memory://", None)
    assert settings.headers is HeaderFormat.DRAFT_11


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Settings, {"store": "redis://store", "policies": Path("some.yaml")}),
        (
            ServerSettings,
            {
                "target": "shop.main:app",
                "host": "127.0.0.1",
                "port": 1,
                "admin_host": "::1",
                "admin_port": 2,
                "store": "redis://store",
                "policies": Path("some.yaml"),
            },
        ),
    ],
)
def test_settings_read_variables(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings], values: dict[str, object]
) -> None:
    """Each setting, and each option of `serve`, is a variable `FLEETLIMIT_*`."""
    for name, value in values.items():
        monkeypatch.setenv(f"FLEETLIMIT_{name.upper()}", str(value))
    settings = kind.load()
    assert {name: getattr(settings, name) for name in values} == values


@pytest.mark.parametrize(
    ("kind", "given", "read", "argument"),
    [
        (Settings, "store", "key_prefix", "redis://other"),
        (ServerSettings, "host", "admin_host", "::1"),
    ],
)
def test_arguments_override_variables(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings], given: str, read: str, argument: str
) -> None:
    """An argument overrides the environment; None counts as not given."""
    monkeypatch.setenv(f"FLEETLIMIT_{given.upper()}", "one")
    monkeypatch.setenv(f"FLEETLIMIT_{read.upper()}", "two")
    settings = kind.load(**{given: argument, read: None})
    assert (getattr(settings, given), getattr(settings, read)) == (argument, "two")


@pytest.mark.parametrize(
    ("kind", "name", "default"),
    [
        (Settings, "policies", None),
        (Settings, "key_secret", None),
        (ServerSettings, "port", 8000),
    ],
)
def test_empty_variables_are_not_set(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings], name: str, default: object
) -> None:
    """`FLEETLIMIT_POLICIES=` names no file, and not the current directory."""
    monkeypatch.setenv(f"FLEETLIMIT_{name.upper()}", "")
    assert getattr(kind.load(), name) == default


@pytest.mark.parametrize("text", ["0123456789abcdef\n", " \n"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Settings, "key_secret"),
        (Settings, "store_password"),
        (ServerSettings, "admin_token"),
    ],
)
def test_secrets_are_read_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[Settings], name: str, text: str
) -> None:
    """A file with the name of its variable contains the secret; a final newline is removed."""
    (tmp_path / f"fleetlimit_{name}").write_text(text)
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    settings = kind.load()
    assert reveal(getattr(settings, name)) == (text.strip() or None)
    assert "0123456789abcdef" not in repr(settings)


def test_missing_secrets_directory_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing directory is an error: the secrets would be missing without notice."""
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"FLEETLIMIT_SECRETS_DIR: there is no directory .*gone"):
        Settings.load()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Settings, "STORE_TIMEOUT", "0"),
        (Settings, "BREAKER_FAILURES", "0"),
        (Settings, "AUDIT_CALLERS", "1001"),
        (Settings, "HEADERS", "s3cret"),
        (ServerSettings, "PORT", "s3cret"),
        (ServerSettings, "ADMIN_PORT", "65536"),
        (ServerSettings, "SHUTDOWN_SECONDS", "-1"),
        (ServerSettings, "LOG_LEVEL", "s3cret"),
        (ServerSettings, "LOG_FORMAT", "s3cret"),
    ],
)
def test_error_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings], name: str, value: str
) -> None:
    """An error names the variable, and never repeats its value."""
    monkeypatch.setenv(f"FLEETLIMIT_{name}", value)
    with pytest.raises(ConfigError) as raised:
        kind.load()
    assert f"FLEETLIMIT_{name}: " in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_error_names_every_invalid_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names all invalid variables, not only the first."""
    monkeypatch.setenv("FLEETLIMIT_AUDIT_CALLERS", "many")
    monkeypatch.setenv("FLEETLIMIT_HEADERS", "french")
    with pytest.raises(ConfigError, match=r"FLEETLIMIT_AUDIT_CALLERS: .*; FLEETLIMIT_HEADERS: "):
        Settings.load()


def test_reveal_returns_none_for_an_empty_secret() -> None:
    """A missing secret and an empty one are the same."""
    assert reveal(None) is None
    assert reveal(SecretStr(" \n")) is None
