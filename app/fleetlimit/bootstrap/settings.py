"""Settings, from arguments, `FLEETLIMIT_*` variables and files of secrets, in this order."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.audit.service import DEFAULT_CALLERS
from fleetlimit.web.ratelimit_headers import HeaderFormat

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=3_600)]


class Settings(BaseSettings):
    """What can be set.

    A setting, such as a secret, may also be a file, named as its variable in lower case, in the
    directory that `FLEETLIMIT_SECRETS_DIR` names.
    """

    model_config = SettingsConfigDict(
        env_prefix="FLEETLIMIT_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    target: str = Field("", description="App to serve, as package.module:app; the bundled one.")
    host: str = Field("0.0.0.0", description="Address of the API.")
    port: Port = Field(8000, description="Port of the API.")
    admin_host: str = Field("0.0.0.0", description="Address of the admin port.")
    admin_port: Port = Field(9090, description="Port for metrics, health and administration.")
    admin_token: SecretStr | None = Field(
        None, description="Bearer token of POST /reset; without one it is not offered."
    )
    shutdown_seconds: Seconds = Field(
        25, description="How long requests in flight may go on after SIGTERM."
    )

    store: str = Field("memory://", description="URL of the store that all replicas share.")
    store_username: str | None = Field(None, description="ACL user of the store.")
    store_password: SecretStr | None = Field(None, description="Password of the store.")
    store_connect_timeout: Seconds = Field(0.25, description="Seconds to wait for a connection.")
    store_timeout: Seconds = Field(0.05, description="Seconds to wait for an answer.")
    breaker_failures: Annotated[int, Field(ge=1, le=1_000)] = Field(
        3, description="Failures in a row after which the store is not asked."
    )
    breaker_probe: Seconds = Field(0.5, description="Seconds between probes of such a store.")
    key_secret: SecretStr | None = Field(
        None, description="Key under which identities are hashed, the same for all replicas."
    )
    key_prefix: str = Field("fl", description="Start of every key in the store.")
    replica: str = Field("", description="Name of this replica; host name and process by default.")

    pod: str = Field(
        "",
        validation_alias=AliasChoices("FLEETLIMIT_POD", "POD_NAME"),
        description="Name of the pod in logs; POD_NAME, as Kubernetes gives it.",
    )

    min_replicas: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1,
        description="Replicas that share a limit while the store is away, if no more were seen.",
    )

    audit_keys: Annotated[int, Field(ge=0, le=1_000)] = Field(
        DEFAULT_CALLERS,
        description="Callers of each limit whose sums over all replicas are compared with it.",
    )

    policies: Path | None = Field(None, description="Policy file.")
    headers: HeaderFormat = Field(
        HeaderFormat.DRAFT_11, description="How clients are told of their limits."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that is logged."
    )
    log_format: Literal["json", "console"] = Field("json", description="How log lines look.")

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Read the settings; arguments that are None count as not given.

        Raises:
            ConfigError: A setting is wrong; the message names its variable.
        """
        folder = os.environ.get("FLEETLIMIT_SECRETS_DIR")
        if folder and not Path(folder).is_dir():
            raise ConfigError(f"FLEETLIMIT_SECRETS_DIR: there is no directory {folder}")
        known = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(_secrets_dir=folder, **known)
        except ValidationError as error:
            messages = [
                f"FLEETLIMIT_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}"
                for each in error.errors(include_input=False)
            ]
            raise ConfigError("; ".join(messages)) from None

    @classmethod
    def merged_with(
        cls, base: "Settings | None", *, store: str | None, policies: str | Path | None
    ) -> "Settings":
        """Return the settings that were given, or else read, with a store and policies over them.

        Raises:
            ConfigError: A setting is wrong; the message names its variable.
        """
        if base is None:
            return cls.load(store=store, policies=policies)
        changes = {"store": store, "policies": Path(policies) if policies else None}
        return base.model_copy(update={name: each for name, each in changes.items() if each})


def reveal(value: SecretStr | None) -> str | None:
    """Return a secret without the line break that a file may end with; None for an empty one."""
    return (value.get_secret_value().strip() or None) if value is not None else None
