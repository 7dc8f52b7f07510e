"""Settings of a limiter from arguments, variables and files."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from fleetlimit.bootstrap.settings import Settings, reveal
from fleetlimit.errors import ConfigError
from fleetlimit.web.ratelimit_headers import HeaderFormat


def test_settings_have_defaults() -> None:
    """By default the store is in memory, and there is no policy file."""
    settings = Settings.load()
    assert (settings.store, settings.policies) == ("memory://", None)
    assert settings.headers is HeaderFormat.DRAFT_11


def test_settings_read_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting is a variable `FLEETLIMIT_*`."""
    monkeypatch.setenv("FLEETLIMIT_STORE", "redis://store")
    monkeypatch.setenv("FLEETLIMIT_POLICIES", "some.yaml")
    settings = Settings.load()
    assert (settings.store, settings.policies) == ("redis://store", Path("some.yaml"))


def test_arguments_override_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument overrides the environment; None counts as not given."""
    monkeypatch.setenv("FLEETLIMIT_STORE", "redis://store")
    monkeypatch.setenv("FLEETLIMIT_KEY_PREFIX", "one")
    settings = Settings.load(store="redis://other", key_prefix=None)
    assert (settings.store, settings.key_prefix) == ("redis://other", "one")


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FLEETLIMIT_POLICIES=` names no file, and not the current directory."""
    monkeypatch.setenv("FLEETLIMIT_POLICIES", "")
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", "")
    settings = Settings.load()
    assert (settings.policies, settings.key_secret) == (None, None)


def test_secrets_are_read_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file with the name of its variable contains the secret; a final newline is removed."""
    (tmp_path / "fleetlimit_key_secret").write_text("0123456789abcdef\n")
    (tmp_path / "fleetlimit_store_password").write_text("\n")
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    settings = Settings.load()
    assert reveal(settings.key_secret) == "0123456789abcdef"
    assert reveal(settings.store_password) is None
    assert "0123456789abcdef" not in repr(settings)


def test_missing_secrets_directory_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing directory is an error: the secrets would be missing without notice."""
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"FLEETLIMIT_SECRETS_DIR: there is no directory .*gone"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STORE_TIMEOUT", "0"),
        ("BREAKER_FAILURES", "0"),
        ("AUDIT_CALLERS", "1001"),
        ("HEADERS", "s3cret"),
    ],
)
def test_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An error names the variable, and never repeats its value."""
    monkeypatch.setenv(f"FLEETLIMIT_{name}", value)
    with pytest.raises(ConfigError) as raised:
        Settings.load()
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
