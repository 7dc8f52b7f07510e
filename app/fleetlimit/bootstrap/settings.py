"""Settings of a limiter: arguments first, then `FLEETLIMIT_*` variables, then files of secrets."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import (
    AliasChoices,
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import DEFAULT_TIMEOUT_S
from fleetlimit.limiter.audit.service import DEFAULT_AUDIT_CALLERS
from fleetlimit.stores.memory import DEFAULT_MAX_BUCKETS
from fleetlimit.web.header_layout import WHAT_TO_WRITE as HEADERS_EXPECTED
from fleetlimit.web.header_layout import HeaderSpec, header_setting
from fleetlimit.web.ratelimit_headers import HeaderFormat

Seconds = Annotated[float, Field(gt=0, le=3_600)]

_PREFIX: Final = "FLEETLIMIT_"
_EXPECTED: Final = "x-expected"
"""Keyword of a JSON schema with the values in words."""
_SECRETS_DIR: Final = "FLEETLIMIT_SECRETS_DIR"
SERVE_SETTINGS: Final = frozenset(
    {
        "target",
        "factory",
        "host",
        "port",
        "admin_host",
        "admin_port",
        "admin_token",
        "admin_allowed_hosts",
        "max_head_bytes",
        "max_headers",
        "head_timeout",
        "max_connections",
        "keep_alive",
        "shutdown_seconds",
        "pod",
        "log_level",
        "log_format",
        "trace_parents_per_second",
    }
)
"""Settings of `fleetlimit serve` alone. In another process their variables are no error."""

# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK_NAME: Final = re.compile(
    r".*_SERVICE_(HOST|PORT(_.+)?)|.*_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
_SERVICE_LINK_URL: Final = re.compile(r"(tcp|udp|sctp)://")


def _is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable in each pod, for a Service named like ours."""
    if _SERVICE_LINK_NAME.fullmatch(name):
        return True
    # A Service `fleetlimit` has the variable of the setting `port`.
    return name.endswith("_PORT") and _SERVICE_LINK_URL.match(value) is not None


class _Variables(EnvSettingsSource):
    """Environment variables without the service links of Kubernetes."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the variable's value, or None for a service link."""
        value, key, is_complex = super().get_field_value(field, field_name)
        if value is not None and _is_service_link(f"{_PREFIX}{field_name.upper()}", value):
            value = None
        return value, key, is_complex


class Settings(BaseSettings):
    """Settings that a limiter needs, with or without `fleetlimit serve`.

    Each setting may also be a file in the directory `FLEETLIMIT_SECRETS_DIR`, with the name of its
    variable in lower case.

    Raises:
        ConfigError: A setting is unknown or invalid; the message names its argument, variable or
            file, and what to write.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        str_strip_whitespace=True,
    )

    store: str = Field("memory://", description="URL of the store that all replicas share.")
    store_username: str | None = Field(None, description="ACL user of the store.")
    store_password: SecretStr | None = Field(None, description="Password of the store.")
    store_credentials_file: Path | None = Field(
        None,
        description="File with the password of the store, or with the user and the password on two "
        "lines, which each new connection reads.",
    )
    store_connect_timeout: Seconds = Field(0.25, description="Connect timeout in seconds.")
    store_timeout: Seconds = Field(0.05, description="Reply timeout in seconds.")
    breaker_failures: Annotated[int, Field(ge=1, le=1_000)] = Field(
        3, description="Consecutive failures that open the circuit breaker."
    )
    breaker_probe: Seconds = Field(0.5, description="Seconds between probes while it is open.")
    key_secret: SecretStr | None = Field(
        None, description="HMAC key of the hashed identities, the same for all replicas."
    )
    key_prefix: str = Field("fl", description="Prefix of every key in the store.")
    replica: str = Field("", description="Name of this replica; by default host name and process.")

    min_replicas: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1,
        description="Fewest replicas that divide a limit while the store is unavailable.",
    )

    memory_buckets: Annotated[int, Field(ge=1)] = Field(
        DEFAULT_MAX_BUCKETS,
        description="Most buckets in the memory of a process, for `memory://` and the fallback.",
    )

    audit_callers: Annotated[int, Field(ge=0, le=1_000)] = Field(
        DEFAULT_AUDIT_CALLERS,
        description="Audited callers of each limit; 0 turns the audit off.",
    )

    function_timeout: Seconds = Field(
        DEFAULT_TIMEOUT_S,
        description="Timeout of the app's own async functions (resolver, costs) in seconds.",
    )

    policies: Path | None = Field(None, description="Policy file.")
    headers: Annotated[
        str,
        PlainValidator(header_setting),
        WithJsonSchema({"type": "string", _EXPECTED: HEADERS_EXPECTED}),
    ] = Field(
        HeaderFormat.DRAFT_11,
        description="Format of the rate-limit response headers, or several with commas.",
    )

    def __init__(self, **given: Any) -> None:
        # A name with an underscore in front is an option of pydantic-settings.
        keywords = [name for name in given if not name.startswith("_")]
        _require_known(keywords, type(self).model_fields, prefix="")
        aliases = {_alias(name, field): name for name, field in type(self).model_fields.items()}
        # By alias, because up to pydantic-settings 2.11 the variable of a setting with an alias
        # takes precedence over an argument by name.
        keys = {name: alias for alias, name in aliases.items()}
        by_alias = {keys.get(name, name): value for name, value in given.items()}
        try:
            super().__init__(**by_alias)
        except ValidationError as error:
            messages = [
                f"{_written_as(name, given)}: {self._what_to_write(name, each)}"
                for each in error.errors(include_input=False)
                for name in [aliases.get(str(each["loc"][0]), str(each["loc"][0]))]
            ]
            raise ConfigError("; ".join(messages)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _reject_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject True for a number, which pydantic takes for 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise PydanticCustomError("truth_value", "no number")
        return value

    @classmethod
    def _what_to_write(cls, name: str, error: ErrorDetails) -> str:
        """Return what a setting may be: pydantic's messages do not say it."""
        if error["type"] == "value_error":
            return error["msg"].removeprefix("Value error, ")
        schema = cls.model_json_schema(by_alias=False)
        expected = schema["properties"].get(name, {})
        expected = expected.get("anyOf", [expected])[0]
        if "$ref" in expected:
            expected = schema["$defs"][expected["$ref"].rpartition("/")[2]]
        return f"write {_description(expected, cls.model_fields[name].default)}"

    def where(self, name: str) -> str:
        """Return the variable or file that a setting is from, or its name as an argument."""
        value = getattr(self, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for source, outside in _outside_values(name):
            return source if outside.strip() == text.strip() else name
        return name

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings. An override of None counts as not given.

        Raises:
            ConfigError: A setting is unknown or invalid; the message names its variable.
        """
        return cls(**{name: value for name, value in overrides.items() if value is not None})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced by `_Variables`
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is no such file
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - made with its directory
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in the order of precedence.

        Raises:
            ConfigError: A source has an unknown setting, or there is no directory of secrets.
        """
        directory = os.environ.get(_SECRETS_DIR) or None
        if directory and not Path(directory).is_dir():
            raise ConfigError(f"{_SECRETS_DIR}: there is no directory {directory}")
        _require_known(_own_variables(), [*_all_settings(), "secrets_dir"], prefix=_PREFIX)
        if directory:
            _require_known(_own_files(directory), _all_settings(), prefix=_PREFIX.lower())
            _require_readable(directory)
        return (
            init_settings,
            _Variables(settings_cls),
            SecretsSettingsSource(settings_cls, secrets_dir=directory),
        )

    @classmethod
    def merged_with(
        cls,
        base: "Settings | None",
        *,
        store: str | None,
        policies: str | Path | None,
        headers: HeaderSpec | None = None,
    ) -> "Settings":
        """Return `base`, or the settings of the environment, with these arguments over them.

        Raises:
            ConfigError: A setting is invalid; the message names its argument, variable or file.
        """
        if store is not None and not isinstance(store, str):
            raise ConfigError(
                "store: write the URL of a store as text, such as redis://host:6379/0"
            )
        if policies is not None and not isinstance(policies, (str, Path)):
            raise ConfigError("policies: write the path of a policy file, or PolicySet(...)")
        if headers is not None:
            try:
                headers = header_setting(headers)
            except ConfigError as error:
                raise ConfigError(f"headers: {error}") from error
        if base is None:
            return cls.load(store=store, policies=policies, headers=headers)
        if not isinstance(base, Settings):
            raise ConfigError("settings: write Settings(...), from fleetlimit")
        changes = {
            "store": store,
            "policies": Path(policies) if policies is not None else None,
            "headers": headers,
        }
        return base.model_copy(
            update={name: each for name, each in changes.items() if each is not None}
        )


def _alias(name: str, field: FieldInfo) -> str:
    """Return the first alias of a setting, or its name."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else name


def _all_settings() -> list[str]:
    return [*Settings.model_fields, *sorted(SERVE_SETTINGS)]


def _own_variables() -> Iterator[str]:
    """Yield the names of the variables with our prefix."""
    for name, value in sorted(os.environ.items()):
        upper = name.upper()
        if value and upper.startswith(_PREFIX) and not _is_service_link(upper, value):
            yield name


def _own_files(directory: str) -> Iterator[str]:
    """Yield the names of the files with our prefix."""
    for path in sorted(Path(directory).iterdir()):
        if path.name.upper().startswith(_PREFIX):
            yield path.name


def _require_readable(directory: str) -> None:
    """Check that the files of settings are texts.

    Raises:
        ConfigError: One is not, or cannot be read.
    """
    for name in _own_files(directory):
        path = Path(directory) / name
        try:
            path.read_text("utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: is not in UTF-8") from None


def _outside_values(name: str) -> Iterator[tuple[str, str]]:
    """Yield the variable and the file of a setting that exist, each with its text."""
    for variable in _own_variables():
        if variable.upper() == f"{_PREFIX}{name.upper()}":
            yield variable, os.environ[variable]
    directory = os.environ.get(_SECRETS_DIR)
    for file in _own_files(directory) if directory else ():
        if file.upper() == f"{_PREFIX}{name.upper()}":
            path = Path(str(directory)) / file
            yield str(path), path.read_text("utf-8")


def _written_as(name: str, given: Collection[str]) -> str:
    """Return the argument, the variable or the file of an invalid setting."""
    if name in given:
        return name
    return next((source for source, _ in _outside_values(name)), name)


def _description(schema: Mapping[str, Any], default: object) -> str:
    """Return in words which values a JSON schema accepts."""
    if _EXPECTED in schema:
        return str(schema[_EXPECTED])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "integer":
            most = f" to {schema['maximum']}" if "maximum" in schema else " on"
            return f"a whole number from {schema['minimum']}{most}, such as {default}"
        case "number":
            return (
                f"a number of seconds, without a unit, above {schema['exclusiveMinimum']:g} and at "
                f"most {schema['maximum']:g}, such as {default}"
            )
    return "the path of a file" if schema.get("format") == "path" else "text"


def _require_known(names: Iterable[str], known: Collection[str], *, prefix: str) -> None:
    """Check that each name is the prefix and a setting.

    Raises:
        ConfigError: Some are not; the message has the nearest setting of each.
    """
    errors = []
    for name in names:
        setting = name.lower()[len(prefix) :]
        if setting in known:
            continue
        nearest = prefix + "".join(get_close_matches(setting, known, n=1))
        if prefix.isupper():
            nearest = nearest.upper()
        hint = f"; did you mean {nearest}?" if nearest != prefix else ": remove it"
        errors.append(f"{name}: there is no such setting{hint}")
    if errors:
        raise ConfigError("; ".join(errors))


def reveal(value: SecretStr | None) -> str | None:
    """Return a secret without surrounding white space, or None if it is empty."""
    return (value.get_secret_value().strip() or None) if value is not None else None
