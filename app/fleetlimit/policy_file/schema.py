"""The policy file as it may be written; each entry turns itself into what the core decides by."""

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

from fleetlimit.core.policy import DEFAULT_POLICY, KeyPart, Match, Mode, OnStoreError, Policy
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
from fleetlimit.errors import ConfigError
from fleetlimit.policy_file.fields import OptionalNotNull, StrictInt, StrictModel
from fleetlimit.policy_file.identity_schema import ApiKeysSection, IdentitySection, JwtSection

RATE_LIMIT = "(rate limit)"
CONCURRENCY_LIMIT = "(concurrency limit)"


def _rate(text: str) -> str:
    parse_rate(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class RateLimit(StrictModel):
    """So many units per period."""

    rate: Rate = Field(
        description="Units per period: 100/second, 100/minute, 100/hour, 100/day or 100 per 90 s."
    )
    burst: OptionalNotNull[StrictInt] = Field(
        None,
        description="Most units at one instant, for token_bucket only; left out, the rate's own "
        "number.",
    )
    algorithm: Algorithm = Field(Algorithm.TOKEN_BUCKET, description="How the limit counts.")
    cost: StrictInt = Field(1, description="Units that one unit of a request's cost spends.")

    @model_validator(mode="after")
    def _check_consistent(self) -> "RateLimit":
        self.quota()
        return self

    def quota(self) -> Quota:
        """Return the limit in integers."""
        return rate_quota(self.rate, burst=self.burst, algorithm=self.algorithm, cost=self.cost)


class ConcurrencyLimit(StrictModel):
    """So many units held at the same time."""

    concurrency: StrictInt = Field(description="Units held at the same time.")
    lease: StrictInt = Field(
        DEFAULT_LEASE_SECONDS,
        description="Seconds after which a replica that died gives back what it held.",
    )
    cost: StrictInt = Field(1, description="Units that one unit of a request's cost holds.")

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
            f"{text!r} matches no route: `*` stands only at the end; write a template such as "
            "/items/{item_id}"
        )
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _parse_fraction(value: Any) -> Any:
    # Fractions are text to the reader of these files.
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{value!r} is no part of a limit: write a number such as 0.1") from None


Fraction = Annotated[
    float,
    BeforeValidator(_parse_fraction),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_FRACTION}),
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
    """Which requests a policy holds; what is left out or empty matches everything."""

    methods: frozenset[Method] = Field(
        frozenset(), description="HTTP methods, and WEBSOCKET for a WebSocket handshake."
    )
    routes: tuple[RouteTemplate, ...] = Field(
        (),
        description="Route templates such as /items/{item_id}; a final * matches any rest, and "
        "`unmatched` the requests that no route of the app takes.",
    )
    tiers: frozenset[str] = Field(frozenset(), description="Tiers of the caller.")

    def match(self) -> Match:
        """Return the match that the core decides by."""
        return Match(frozenset(self.methods), self.routes, self.tiers)


class DefaultsSection(StrictModel):
    """What policies do that do not say it themselves."""

    on_store_error: OnStoreError = Field(
        OnStoreError.LOCAL, description="What a policy does while the store is away."
    )
    mode: Mode = Field(
        Mode.ENFORCE, description="Refuse (enforce), only count (shadow), or nothing (off)."
    )


class PolicySection(StrictModel):
    """A named set of limits on a key."""

    name: str = Field(description="Unique name, shown to clients and in metrics.")
    key: KeySpec = Field(
        ("principal",),
        description="What a bucket is kept per: principal, client_address, header:<name>, route "
        "or global, or a list of them.",
    )
    match: OptionalNotNull[MatchSection] = Field(
        None,
        description="Which requests the policy holds. Left out, it holds those that name it in "
        "code; the policy `default` holds all that no other policy does.",
    )
    limits: tuple[Limit, ...] = Field(
        (), description="Limits for every tier that `tiers` does not name."
    )
    tiers: Mapping[str, tuple[Limit, ...]] = Field(
        default_factory=dict,
        description="Limits by tier; without `limits` the first tier holds everybody else.",
    )
    mode: OptionalNotNull[Mode] = Field(
        None, description="Refuse (enforce), only count (shadow), or nothing (off)."
    )
    enforce_percent: StrictInt = Field(
        100, description="Share of the keys, 0 to 100, that are refused; the rest is counted."
    )
    on_store_error: OptionalNotNull[OnStoreError] = Field(
        None, description="What the policy does while the store is away."
    )
    lease: OptionalNotNull[Fraction] = Field(
        None,
        description="Largest part of each limit, above 0 and at most 0.5, that a replica may take "
        "in one call and spend by itself. Left out, every check asks the store.",
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> "PolicySection":
        self.policy(DefaultsSection())
        if self.name == DEFAULT_POLICY and self.match is not None:
            raise ConfigError(
                f"{DEFAULT_POLICY} holds what no other policy does, so it has no match: remove "
                "`match` or rename the policy"
            )
        return self

    def policy(self, defaults: DefaultsSection) -> Policy:
        """Return the policy that the core decides by."""
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
            prefetch=self.lease,
        )


class PolicyDocument(StrictModel):
    """Rate limits of a service, and how its callers are told apart."""

    version: Literal[1] = Field(description="Version of this format.")
    identity: IdentitySection = Field(IdentitySection(), description="How callers are told apart.")
    defaults: DefaultsSection = Field(
        DefaultsSection(), description="What policies do that do not say it themselves."
    )
    policies: tuple[PolicySection, ...] = Field(description="The policies, in reporting order.")


SECTIONS: Mapping[str, type[StrictModel]] = {
    "": PolicyDocument,
    "identity": IdentitySection,
    "api_keys": ApiKeysSection,
    "jwt": JwtSection,
    "defaults": DefaultsSection,
    "policies": PolicySection,
    "match": MatchSection,
    RATE_LIMIT: RateLimit,
    CONCURRENCY_LIMIT: ConcurrencyLimit,
}
"""The section that a name opens, as pydantic's error locations spell it."""
