"""Settings of a limiter: arguments first, then `FLEETLIMIT_*` variables, then files of secrets."""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleetlimit.errors import ConfigError
from fleetlimit.identity.identifier import DEFAULT_RESOLVER_TIMEOUT_S
from fleetlimit.limiter.audit.service import DEFAULT_AUDIT_CALLERS
from fleetlimit.stores.memory import DEFAULT_MAX_BUCKETS
from fleetlimit.web.ratelimit_headers import HeaderFormat

Seconds = Annotated[float, Field(gt=0, le=3_600)]


class Settings(BaseSettings):
    """Settings that a limiter needs, with or without `fleetlimit serve`.

    Each setting may also be a file in the directory `FLEETLIMIT_SECRETS_DIR`, with the name of its
    variable in lower case.
    """

    model_config = SettingsConfigDict(
        env_prefix="FLEETLIMIT_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    store: str = Field("memory://", description="URL of the store that all replicas share.")
    store_username: str | None = Field(None, description="ACL user of the store.")
    store_password: SecretStr | None = Field(None, description="Password of the store.")
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

    resolver_timeout: Seconds = Field(
        DEFAULT_RESOLVER_TIMEOUT_S, description="Timeout of the app's own resolver in seconds."
    )

    policies: Path | None = Field(None, description="Policy file.")
    headers: HeaderFormat = Field(
        HeaderFormat.DRAFT_11, description="Format of the rate-limit response headers."
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings. An override of None counts as not given.

        Raises:
            ConfigError: A setting is invalid; the message names its variable.
        """
        directory = os.environ.get("FLEETLIMIT_SECRETS_DIR")
        if directory and not Path(directory).is_dir():
            raise ConfigError(f"FLEETLIMIT_SECRETS_DIR: there is no directory {directory}")
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(_secrets_dir=directory, **given)
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
        """Return `base`, or the settings of the environment, with a store and policies over them.

        Raises:
            ConfigError: A setting is invalid; the message names its variable.
        """
        if base is None:
            return cls.load(store=store, policies=policies)
        changes = {"store": store, "policies": Path(policies) if policies else None}
        return base.model_copy(update={name: each for name, each in changes.items() if each})


def reveal(value: SecretStr | None) -> str | None:
    """Return a secret without surrounding white space, or None if it is empty."""
    return (value.get_secret_value().strip() or None) if value is not None else None
