"""Schema of the policy file; each section converts itself to the core's type."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from fleetlimit.core.counted_statuses import parse_count
from fleetlimit.core.exemption import Exemption
from fleetlimit.core.key_parts import KeyPart
from fleetlimit.core.policy import Match, Mode, OnStoreError, Policy
from fleetlimit.core.policy_set import DEFAULT_POLICY
from fleetlimit.core.prefetch import MAX_FRACTION
from fleetlimit.core.quota import (
    DEFAULT_LEASE_SECONDS,
    Algorithm,
    Quota,
    concurrency_quota,
    parse_rate,
    rate_quota,
)
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.core.usage import MAX_REQUEST_BYTES, Provider, Usage
from fleetlimit.errors import ConfigError
from fleetlimit.policy_file.fields import NonEmptyStr, OptionalNotNull, StrictInt, StrictModel
from fleetlimit.policy_file.identity_schema import ApiKeysSection, IdentitySection, JwtSection

RATE_LIMIT = "(rate limit)"
CONCURRENCY_LIMIT = "(concurrency limit)"


def _rate(text: str) -> str:
    parse_rate(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]
AnchorDay = Annotated[StrictInt | str, WithJsonSchema({"type": ["integer", "string"]})]


class RateLimit(StrictModel):
    """A number of units per period."""

    rate: Rate = Field(
        description="Units per period: 100/second, 100/minute, 100/hour, 100/day, 100/week, "
        "100/month, 100/year or 100 per 90 s."
    )
    burst: OptionalNotNull[StrictInt] = Field(
        None,
        description="Most units at one instant, for token_bucket only; if absent, the rate's "
        "number.",
    )
    algorithm: OptionalNotNull[Algorithm] = Field(
        None,
        description="How the limit counts; if absent token_bucket, and fixed_window for windows of "
        "a calendar.",
    )
    cost: StrictInt = Field(1, description="Units spent for each unit of a request's cost.")
    timezone: OptionalNotNull[str] = Field(
        None,
        description="IANA name of the time zone, such as Europe/Berlin, whose days, weeks, months "
        "or years are the windows; for /day, /week, /month and /year. If absent, UTC.",
    )
    anchor: OptionalNotNull[AnchorDay] = Field(
        None,
        description="First day of the windows: of a week a weekday (monday), of a month a day (1 "
        "to 31, or the last day of a shorter month), of a year month and day (01-01).",
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> "RateLimit":
        self.quota()
        return self

    def quota(self) -> Quota:
        """Return the limit in integers."""
        return rate_quota(
            self.rate,
            burst=self.burst,
            algorithm=self.algorithm,
            cost=self.cost,
            timezone=self.timezone,
            anchor=self.anchor,
        )


class ConcurrencyLimit(StrictModel):
    """A number of units in use at the same time."""

    concurrency: StrictInt = Field(description="Units in use at the same time.")
    lease: StrictInt = Field(
        DEFAULT_LEASE_SECONDS,
        description="Seconds after which the units of a crashed replica are freed.",
    )
    cost: StrictInt = Field(1, description="Units used for each unit of a request's cost.")

    @model_validator(mode="after")
    def _check_consistent(self) -> "ConcurrencyLimit":
        self.quota()
        return self

    def quota(self) -> Quota:
        """Return the limit in integers."""
        return concurrency_quota(self.concurrency, lease=self.lease, cost=self.cost)


def _limit_tag(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return CONCURRENCY_LIMIT if "concurrency" in value else RATE_LIMIT


Limit = Annotated[
    Annotated[RateLimit, Tag(RATE_LIMIT)] | Annotated[ConcurrencyLimit, Tag(CONCURRENCY_LIMIT)],
    Discriminator(_limit_tag),
]


def _key_part(text: str) -> str:
    KeyPart.parse(text)
    return text


def _route(text: str) -> str:
    if text not in {"*", UNMATCHED_ROUTE} and not text.startswith("/"):
        raise ConfigError(f"{text!r} matches no route: write a template such as /{text}")
    if "*" in text[:-1]:
        raise ConfigError(
            f"{text!r} matches no route: `*` is allowed only at the end; write a template such as "
            "/items/{item_id}"
        )
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _parse_prefetch(value: Any) -> Any:
    if isinstance(value, str) and value in {"auto", "off"}:
        return value
    try:
        # The YAML reader leaves numbers with a point as text.
        fraction = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        fraction = math.nan
    if not 0 < fraction <= MAX_FRACTION:
        written = str(value).lower() if isinstance(value, bool) else value
        raise ConfigError(
            f"{written} is no prefetch: write auto, off, or a number above 0 and at most 0.5"
        )
    return fraction


Prefetch = Annotated[
    Literal["auto", "off"] | float,
    BeforeValidator(_parse_prefetch),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_FRACTION},
                {"enum": ["auto", "off"]},
            ]
        }
    ),
]
Method = Annotated[
    Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "WEBSOCKET"],
    BeforeValidator(_upper),
]
RouteTemplate = Annotated[str, AfterValidator(_route)]
KeySpec = Annotated[
    tuple[Annotated[str, AfterValidator(_key_part)], ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class MatchSection(StrictModel):
    """Requests that a policy applies to; an absent or empty field matches everything."""

    methods: frozenset[Method] = Field(
        frozenset(), description="HTTP methods, and WEBSOCKET for a WebSocket handshake."
    )
    routes: tuple[RouteTemplate, ...] = Field(
        (),
        description="Route templates such as /items/{item_id}; a final * matches any suffix, and "
        "`unmatched` matches requests that no route of the app takes.",
    )
    tiers: frozenset[str] = Field(frozenset(), description="Tiers of the caller.")

    def match(self) -> Match:
        """Return the core's match."""
        return Match(frozenset(self.methods), self.routes, self.tiers)


class ExemptSection(StrictModel):
    """Requests that a policy applies to and does not limit: each that one of the lists contains."""

    routes: tuple[RouteTemplate, ...] = Field(
        (), description="Route templates such as /health; a final * matches any suffix."
    )
    networks: tuple[str, ...] = Field(
        (), description="Networks of clients, such as 10.0.0.0/8 or 2001:db8::/32."
    )
    tiers: frozenset[NonEmptyStr] = Field(frozenset(), description="Tiers of verified callers.")
    principals: frozenset[NonEmptyStr] = Field(
        frozenset(), description="Names of verified callers."
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> "ExemptSection":
        self.exemption()
        return self

    def exemption(self) -> Exemption:
        """Return the core's exemption."""
        return Exemption(
            tiers=self.tiers,
            principals=self.principals,
            networks=self.networks,
            routes=self.routes,
        )


class DefaultsSection(StrictModel):
    """Defaults for policies that leave a field out."""

    on_store_error: OnStoreError = Field(
        OnStoreError.LOCAL, description="What a policy does while the store is unavailable."
    )
    mode: Mode = Field(
        Mode.ENFORCE, description="Reject (enforce), only count (shadow), or disable (off)."
    )


def _count(value: Any) -> Any:
    if not isinstance(value, str | int | list | tuple) or isinstance(value, bool):
        raise ConfigError(f"{value!r} does not count: write all, failure, or a list: [401, 403]")
    parse_count(value)
    return value


_WORDS = ["failure", *(f"{first}xx" for first in range(1, 6))]
_STATUS = {"type": "integer", "minimum": 100, "maximum": 599}
Count = Annotated[
    Any,
    BeforeValidator(_count),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["all", *_WORDS]},
                _STATUS,
                {"type": "array", "minItems": 1, "items": {"anyOf": [{"enum": _WORDS}, _STATUS]}},
            ]
        }
    ),
]


def _usage(value: Any) -> Any:
    if isinstance(value, dict) and "usage" in value:
        return value
    if isinstance(value, UsageSection):
        return value
    raise ConfigError(
        "the cost of a policy stands in an answer: write cost: {usage: openai}, or a fixed cost "
        "into the limits, as limits: [{rate: 100/minute, cost: 5}]"
    )


class UsageSection(StrictModel):
    """Cost in tokens, which the answer of a large language model states."""

    usage: Provider = Field(
        description="API whose format requests and answers have: openai or anthropic."
    )
    estimate: OptionalNotNull[StrictInt] = Field(
        None,
        description="Tokens reserved for a request that states no maximum of its output; if "
        "absent, 1,000 or the most that the limit holds.",
    )
    max_request_bytes: StrictInt = Field(
        MAX_REQUEST_BYTES,
        description="Largest body of a request that is read for the maximum of its output.",
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> "UsageSection":
        self.cost()
        return self

    def cost(self) -> Usage:
        """Return the core's cost."""
        return Usage(self.usage, estimate=self.estimate, max_request_bytes=self.max_request_bytes)


class PolicySection(StrictModel):
    """A named set of limits for a key."""

    name: str = Field(description="Unique name, shown to clients and in metrics.")
    key: KeySpec = Field(
        ("principal",),
        description="What each bucket is keyed on: principal, client_address, header:<name>, "
        "path:<name>, route or global, or a list of them.",
    )
    match: OptionalNotNull[MatchSection] = Field(
        None,
        description="Requests that the policy applies to. If absent, it applies to routes that "
        "name it in code; the policy `default` applies where no other policy matches.",
    )
    limits: tuple[Limit, ...] = Field(
        (), description="Limits for every tier that `tiers` does not name."
    )
    tiers: Mapping[str, tuple[Limit, ...]] = Field(
        default_factory=dict,
        description="Limits by tier; without `limits` the first tier applies to all other callers.",
    )
    mode: OptionalNotNull[Mode] = Field(
        None, description="Reject (enforce), only count (shadow), or disable (off)."
    )
    enforce_percent: StrictInt = Field(
        100, description="Percentage of keys that are enforced; other keys are only counted."
    )
    on_store_error: OptionalNotNull[OnStoreError] = Field(
        None, description="What the policy does while the store is unavailable."
    )
    prefetch: OptionalNotNull[Prefetch] = Field(
        None,
        description="Largest fraction of each limit, above 0 and at most 0.5, that a replica may "
        "acquire in one call and spend locally; or auto, for a sixteenth within at most a second. "
        "If absent or off, every check calls the store.",
    )
    count: Count = Field(
        "all",
        description="Statuses of the responses that count: all, failure (400 to 599), or a list "
        "of statuses and classes such as [401, 403, 5xx]. A request whose status does not count "
        "gets its cost back.",
    )
    cost: OptionalNotNull[Annotated[UsageSection, BeforeValidator(_usage)]] = Field(
        None,
        description="Cost that the answer of a large language model states; if absent, 1 or the "
        "cost that code gives.",
    )

    exempt: OptionalNotNull[ExemptSection] = Field(
        None, description="Requests that the policy applies to and does not limit."
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> "PolicySection":
        self.policy(DefaultsSection())
        if self.name == DEFAULT_POLICY and self.match is not None:
            raise ConfigError(
                f"{DEFAULT_POLICY} applies where no other policy matches, so it has no match: "
                "remove `match` or rename the policy"
            )
        return self

    def policy(self, defaults: DefaultsSection) -> Policy:
        """Return the core's policy."""
        return Policy(
            name=self.name,
            limits=tuple(limit.quota() for limit in self.limits),
            tiers={
                tier: tuple(limit.quota() for limit in limits)
                for tier, limits in self.tiers.items()
            },
            key=tuple(KeyPart.parse(part) for part in self.key),
            match=self.match.match() if self.match else None,
            mode=self.mode or defaults.mode,
            enforce_percent=self.enforce_percent,
            on_store_error=self.on_store_error or defaults.on_store_error,
            prefetch=self.prefetch,
            exempt=self.exempt.exemption() if self.exempt else None,
            count=self.count,
            cost=self.cost.cost() if self.cost else None,
        )


class PolicyDocument(StrictModel):
    """Rate limits of a service, and how its callers are identified."""

    version: Literal[1] = Field(description="Version of this format.")
    identity: IdentitySection = Field(IdentitySection(), description="How callers are identified.")
    defaults: DefaultsSection = Field(
        DefaultsSection(), description="Defaults for policies that leave a field out."
    )
    policies: tuple[PolicySection, ...] = Field(description="The policies, in reporting order.")


SECTIONS: Mapping[str, type[StrictModel]] = {
    "": PolicyDocument,
    "identity": IdentitySection,
    "api_keys": ApiKeysSection,
    "jwt": JwtSection,
    "issuers": JwtSection,
    "defaults": DefaultsSection,
    "policies": PolicySection,
    "match": MatchSection,
    "exempt": ExemptSection,
    "cost": UsageSection,
    RATE_LIMIT: RateLimit,
    CONCURRENCY_LIMIT: ConcurrencyLimit,
}
"""Sections by the name that pydantic's error locations contain."""
