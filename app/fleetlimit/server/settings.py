"""Settings of `fleetlimit serve`: those of its limiter, its addresses, its log and its shutdown."""

import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr

from fleetlimit.bootstrap.settings import Seconds, Settings
from fleetlimit.server.admin.allowed_hosts import parse_hosts
from fleetlimit.server.listening import ALL_ADDRESSES
from fleetlimit.telemetry.tracing.setup import PARENTS_PER_SECOND

EXAMPLE_POLICIES = Path(str(files("fleetlimit.server") / "policies.yaml"))
"""Policy file of the example app."""

Port = Annotated[int, Field(ge=0, le=65_535)]
LogFormat = Literal["auto", "human", "json"]
MIN_TOKEN_CHARS: Final = 16


def _require_long_token(token: SecretStr) -> SecretStr:
    if 0 < len(token.get_secret_value()) < MIN_TOKEN_CHARS:
        raise ValueError(f"write at least {MIN_TOKEN_CHARS} characters: openssl rand -hex 32")
    return token


def _require_hosts(text: str) -> str:
    parse_hosts(text)
    return text


def _current_name(log_format: Any) -> Any:
    """Return the name of a log format that was called `console` at first."""
    return "human" if log_format == "console" else log_format


class ServerSettings(Settings):
    """Settings of the server process, read from the same sources."""

    target: str = Field("", description="App to serve, as package.module:app; the example app.")
    factory: bool = Field(
        default=False, description="Whether the target is a function that creates the app."
    )
    host: str = Field(ALL_ADDRESSES, description="Address of the API; * for all, of IPv4 and IPv6.")
    port: Port = Field(8000, description="Port of the API.")
    admin_host: str = Field(
        ALL_ADDRESSES, description="Address of the admin port; * for all, of IPv4 and IPv6."
    )
    admin_port: Port = Field(9090, description="Port for metrics, health and administration.")
    admin_token: Annotated[SecretStr, AfterValidator(_require_long_token)] | None = Field(
        None,
        description="Bearer token of POST /explain and /reset, of at least 16 characters; "
        "without one, both are disabled.",
    )
    admin_allowed_hosts: Annotated[str, AfterValidator(_require_hosts)] = Field(
        "",
        description="Further host names of the admin port, with commas between them; IP addresses, "
        "names without a dot and names below .svc and .cluster.local are always allowed.",
    )
    max_head_bytes: Annotated[int, Field(ge=4_096, le=16_777_216)] = Field(
        65_536, description="Most bytes of a request line with its headers, on both ports."
    )
    max_headers: Annotated[int, Field(ge=20, le=10_000)] = Field(
        100, description="Most headers of a request, on both ports."
    )
    head_timeout: Seconds = Field(
        10, description="Time limit for the head of a request in seconds, on both ports."
    )
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        2_000, description="Most open connections of the API, idle ones and WebSockets included."
    )
    keep_alive: Seconds = Field(
        75,
        description="Time after which an idle connection is closed, in seconds; above the idle "
        "timeout of the load balancer, which otherwise sends requests on closed connections.",
    )
    shutdown_seconds: Seconds = Field(
        25, description="Time limit for the requests in flight after SIGTERM."
    )
    trace_parents_per_second: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        PARENTS_PER_SECOND,
        description="Sampled parents (traceparent) per second that are obeyed; the sampler decides "
        "about further ones.",
    )
    pod: str = Field(
        "",
        validation_alias=AliasChoices("FLEETLIMIT_POD", "POD_NAME"),
        description="Name of the pod in logs; also read from POD_NAME.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that is logged."
    )
    log_format: Annotated[
        LogFormat, BeforeValidator(_current_name, json_schema_input_type=LogFormat)
    ] = Field(
        "auto", description="Format of log lines; auto is human on a terminal, and json elsewhere."
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings. Without a target and a policy file, use those of the example app.

        Raises:
            ConfigError: A setting is invalid; the message names its variable.
        """
        settings = super().load(**overrides)
        if settings.policies is None and not settings.target:
            return settings.model_copy(update={"policies": EXAMPLE_POLICIES})
        return settings

    @property
    def logs_json(self) -> bool:
        """Whether log lines are JSON. Decided when it is read, for the current standard output."""
        if self.log_format == "auto":
            return not sys.stdout.isatty()
        return self.log_format == "json"
