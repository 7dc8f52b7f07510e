"""Settings of a limiter and of a server, from arguments, variables and files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fleetlimit import Fleetlimit, PolicySet
from fleetlimit.bootstrap.settings import SERVE_SETTINGS, Settings, reveal
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
        (ServerSettings, "ADMIN_TOKEN", "s3cret"),
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


SECONDS = "write a number of seconds, without a unit, above 0 and at most 3600, such as {}"
EXPECTED = {
    "store_connect_timeout": SECONDS.format(0.25),
    "store_timeout": SECONDS.format(0.05),
    "breaker_probe": SECONDS.format(0.5),
    "function_timeout": SECONDS.format("1.0"),
    "shutdown_seconds": SECONDS.format(25),
    "breaker_failures": "write a whole number from 1 to 1000, such as 3",
    "min_replicas": "write a whole number from 1 to 10000, such as 1",
    "memory_buckets": "write a whole number from 1 on, such as 100000",
    "audit_callers": "write a whole number from 0 to 1000, such as 32",
    "port": "write a whole number from 0 to 65535, such as 8000",
    "admin_port": "write a whole number from 0 to 65535, such as 9090",
    "trace_parents_per_second": "write a whole number from 0 to 1000000, such as 100",
    "headers": "write one of draft-11, draft-next, github, openai, x-ratelimit, "
    "x-ratelimit-epoch, none, several with commas, or names such as "
    "limit=X-Limit,remaining=X-Remaining",
    "log_level": "write one of DEBUG, INFO, WARNING, ERROR",
    "log_format": "write one of auto, human, json",
    "factory": "write true or false",
}
"""What the error of each setting says that is not a text of any kind."""


@pytest.mark.parametrize("text", ["50ms", "-1", "nan", " "])
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("source", ["argument", "variable", "file"])
def test_error_says_what_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, name: str, text: str
) -> None:
    """The error names the argument, variable or file, and what the setting may be."""
    given: dict[str, object] = {}
    if source == "argument":
        given, written_as = {name: text}, name
    elif source == "variable":
        written_as = f"FLEETLIMIT_{name.upper()}"
        monkeypatch.setenv(written_as, text)
    else:
        written_as = str(tmp_path / f"fleetlimit_{name}")
        Path(written_as).write_text(text)
        monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(ConfigError) as raised:
        ServerSettings(**given)  # type: ignore[arg-type]  # wrong on purpose
    assert str(raised.value) == f"{written_as}: {EXPECTED[name]}"


@pytest.mark.parametrize("value", [True, [1], {}, object(), None, b"\xff"])
@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "factory"])
def test_argument_of_another_type_is_an_error(name: str, value: object) -> None:
    """True is no number, and no other type becomes one."""
    with pytest.raises(ConfigError) as raised:
        ServerSettings(**{name: value})  # type: ignore[arg-type]  # wrong on purpose
    assert str(raised.value) == f"{name}: {EXPECTED[name]}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("store", "text"),
        ("store_username", "text"),
        ("store_password", "text"),
        ("key_secret", "text"),
        ("key_prefix", "text"),
        ("replica", "text"),
        ("target", "text"),
        ("host", "text"),
        ("pod", "text"),
        ("policies", "the path of a file"),
        ("store_credentials_file", "the path of a file"),
    ],
)
def test_text_of_another_type_is_an_error(name: str, expected: str) -> None:
    """A number in place of a text or a path is an error."""
    with pytest.raises(ConfigError) as raised:
        ServerSettings(**{name: 5})  # type: ignore[arg-type]  # wrong on purpose
    assert str(raised.value) == f"{name}: write {expected}"


def test_white_space_around_a_value_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blank around a URL or a number does not change it."""
    for name, text in {"STORE": " redis://store ", "STORE_TIMEOUT": " 0.1\n"}.items():
        monkeypatch.setenv(f"FLEETLIMIT_{name}", text)
    settings = Settings()
    assert (settings.store, settings.store_timeout) == ("redis://store", 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"\xff"), "is not in UTF-8"),
    ],
)
def test_unreadable_file_of_a_setting_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make: Callable[[Path], object],
    message: str,
) -> None:
    """The error names the file."""
    make(tmp_path / "fleetlimit_store")
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=f"^{tmp_path}/fleetlimit_store: {message}$"):
        Settings()


@pytest.mark.parametrize("settings", [None, Settings.model_construct()])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"store": 5}, "store: write the URL of a store as text"),
        ({"policies": []}, "policies: write the path of a policy file, or PolicySet"),
    ],
)
def test_wrong_argument_of_a_limiter_is_an_error(
    settings: Settings | None, given: dict[str, Any], message: str
) -> None:
    """The error names the argument, with `settings` and without."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        Fleetlimit(settings=settings, **given)


def test_settings_of_another_type_are_an_error() -> None:
    """A dictionary is no settings."""
    with pytest.raises(ConfigError, match=r"^settings: write Settings"):
        Fleetlimit(settings={"store": "memory://"})  # type: ignore[arg-type]  # wrong on purpose


def test_error_names_every_invalid_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names all invalid variables, not only the first."""
    monkeypatch.setenv("FLEETLIMIT_AUDIT_CALLERS", "many")
    monkeypatch.setenv("FLEETLIMIT_HEADERS", "french")
    with pytest.raises(ConfigError, match=r"FLEETLIMIT_AUDIT_CALLERS: .*; FLEETLIMIT_HEADERS: "):
        Settings.load()


@pytest.mark.parametrize("kind", [Settings, ServerSettings])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("FLEETLIMIT_STROE", "; did you mean FLEETLIMIT_STORE?"),
        ("fleetlimit_key_sekret", "; did you mean FLEETLIMIT_KEY_SECRET?"),
        ("FLEETLIMIT_ADMIN_TOKN", "; did you mean FLEETLIMIT_ADMIN_TOKEN?"),
        ("FLEETLIMIT_SECRET_DIR", "; did you mean FLEETLIMIT_SECRETS_DIR?"),
        ("FLEETLIMIT_QQQQQQQ", ": remove it"),
    ],
)
def test_unknown_variable_is_an_error(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings], name: str, hint: str
) -> None:
    """A misspelt variable never means the default of the setting."""
    monkeypatch.setenv(name, "s3cret")
    with pytest.raises(ConfigError) as raised:
        kind.load()
    assert str(raised.value) == f"{name}: there is no such setting{hint}"


def test_every_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error names all unknown variables; an empty one counts as unset."""
    monkeypatch.setenv("FLEETLIMIT_STROE", "a")
    monkeypatch.setenv("FLEETLIMIT_HEADER", "b")
    monkeypatch.setenv("FLEETLIMIT_POLICY", "")
    with pytest.raises(
        ConfigError, match=r"FLEETLIMIT_HEADER: .* FLEETLIMIT_HEADERS\?; FLEETLIMIT_STROE: "
    ) as raised:
        Settings.load()
    assert "FLEETLIMIT_POLICY:" not in str(raised.value)


def test_unknown_file_of_secrets_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file with our prefix must have the name of a setting; other files are not ours."""
    (tmp_path / "fleetlimit_store_pasword").write_text("s3cret")
    (tmp_path / "tls.crt").touch()
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"fleetlimit_store_pasword: .* did you mean fleetlimit_store_password\?$"
    ):
        Settings.load()


@pytest.mark.parametrize("make", [Settings, Settings.load, ServerSettings, ServerSettings.load])
def test_unknown_keyword_is_an_error(make: Callable[..., Settings]) -> None:
    """A misspelt keyword of the settings in code is an error, too."""
    with pytest.raises(
        ConfigError, match=r"^stroe: there is no such setting; did you mean store\?$"
    ):
        make(stroe="redis://store")


def test_keyword_of_serve_is_unknown_to_the_library() -> None:
    """The variables of `serve` may be set for an app; its keywords have no effect there."""
    with pytest.raises(ConfigError, match=r"^admin_port: there is no such setting"):
        Settings.load(admin_port=1)


def test_error_of_the_constructor_names_the_setting() -> None:
    """`Settings(...)` raises the same error as `Settings.load(...)`."""
    with pytest.raises(ConfigError, match=r"^store_timeout: "):
        Settings(store_timeout=0)


def test_constructor_reads_files_of_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`Settings(...)` has the sources of `Settings.load(...)`."""
    (tmp_path / "fleetlimit_store").write_text("redis://store")
    monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
    assert Settings().store == "redis://store"


SERVICE_LINKS = {
    "FLEETLIMIT_SERVICE_HOST": "10.96.0.10",
    "FLEETLIMIT_SERVICE_PORT": "80",
    "FLEETLIMIT_SERVICE_PORT_HTTP": "80",
    "FLEETLIMIT_PORT": "tcp://10.96.0.10:80",
    "FLEETLIMIT_PORT_80_TCP": "tcp://10.96.0.10:80",
    "FLEETLIMIT_PORT_80_TCP_PROTO": "tcp",
    "FLEETLIMIT_PORT_80_TCP_PORT": "80",
    "FLEETLIMIT_PORT_80_TCP_ADDR": "10.96.0.10",
    "FLEETLIMIT_ADMIN_PORT": "tcp://[fd00::a]:9090",
    "FLEETLIMIT_ADMIN_PORT_9090_TCP": "tcp://[fd00::a]:9090",
    "FLEETLIMIT_VALKEY_SERVICE_HOST": "10.96.0.11",
    "FLEETLIMIT_VALKEY_PORT": "udp://10.96.0.11:6379",
    "FLEETLIMIT_STORE_SERVICE_PORT_VALKEY": "6379",
    "FLEETLIMIT_STORE_PORT_6379_UDP_ADDR": "10.96.0.11",
}
"""Variables that Kubernetes sets in each pod beside Services named `fleetlimit`,
`fleetlimit-admin`, `fleetlimit-valkey` and `fleetlimit-store`."""


def test_service_links_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service with a name like ours neither fails an app nor sets a port of `serve`."""
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == Settings.model_construct()
    served = ServerSettings.load()
    assert (served.port, served.admin_port, served.store) == (8000, 9090, "memory://")


def test_library_ignores_settings_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that only `serve` reads cannot fail an app, even with an invalid value."""
    for name in SERVE_SETTINGS:
        monkeypatch.setenv(f"FLEETLIMIT_{name.upper()}", "s3cret")
    assert Fleetlimit(policies=PolicySet()).settings == Settings.model_construct()


def test_serve_settings_are_those_of_the_server() -> None:
    """The library knows the name of each setting that it leaves to `serve`."""
    assert set(ServerSettings.model_fields) - set(Settings.model_fields) == SERVE_SETTINGS


@pytest.mark.parametrize("given", [None, Settings.model_construct()])
def test_empty_store_is_an_error(given: Settings | None) -> None:
    """An empty URL, perhaps of an unset variable of the app's own, does not mean the default."""
    with pytest.raises(ConfigError, match=r"^store: '' is not a store"):
        Fleetlimit(store="", settings=given)


def test_reveal_returns_none_for_an_empty_secret() -> None:
    """A missing secret and an empty one are the same."""
    assert reveal(None) is None
    assert reveal(SecretStr(" \n")) is None


@pytest.mark.parametrize("base", [None, Settings(headers="none")])
def test_headers_of_fleetlimit_are_settings(
    monkeypatch: pytest.MonkeyPatch, base: Settings | None
) -> None:
    """The argument takes precedence over the variable, and is the layout of the responses."""
    monkeypatch.setenv("FLEETLIMIT_HEADERS", "x-ratelimit")
    fleetlimit = Fleetlimit(settings=base, headers=["github", {"window": "X-Window"}])
    assert fleetlimit.settings.headers == "github,window=X-Window"
    assert fleetlimit.http_limiter.header_layout.text == "github,window=X-Window"
    assert Fleetlimit().http_limiter.header_layout.text == "x-ratelimit"


def test_wrong_headers_of_fleetlimit_name_the_argument() -> None:
    """The error is raised where the limiter is made."""
    with pytest.raises(ConfigError, match=r"^headers: a field is not known"):
        Fleetlimit(headers={"limits": "X-Limit"})
