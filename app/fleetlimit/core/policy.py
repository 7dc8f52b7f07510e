"""Policies: which requests they hold, by what key, and to which limits."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache

from fleetlimit.core.prefetch import PrefetchTerms, prefetch_terms
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.errors import ConfigError

DEFAULT_POLICY = "default"
ALL_PERCENT = 100
_CACHE_SIZE = 4_096
_MAX_METHOD_CHARS = 32
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
"""A token of RFC 9110, 5.6.2, and no longer than anybody needs."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}", re.ASCII)


class Mode(StrEnum):
    """Whether a policy refuses (`enforce`), only counts (`shadow`), or is not there (`off`)."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OFF = "off"


class OnStoreError(StrEnum):
    """What a policy does while the shared store is away."""

    ALLOW = "allow"
    DENY = "deny"
    LOCAL = "local"


class KeyKind(StrEnum):
    """What a bucket can be kept per."""

    PRINCIPAL = "principal"
    CLIENT_ADDRESS = "client_address"
    HEADER = "header"
    ROUTE = "route"
    GLOBAL = "global"


_CACHEABLE_KEY_KINDS = frozenset({KeyKind.PRINCIPAL, KeyKind.ROUTE, KeyKind.GLOBAL})


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One component of a policy's key; `name` is the lower-case header name for `header`."""

    kind: KeyKind
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "KeyPart":
        """Read `principal`, `client_address`, `header:<name>`, `route` or `global`.

        Raises:
            ConfigError: The text is none of these.
        """
        kind, colon, name = text.partition(":")
        if kind == KeyKind.HEADER:
            if HEADER_NAME.fullmatch(name):
                return cls(KeyKind.HEADER, name.lower())
        elif not colon and kind in set(KeyKind):
            return cls(KeyKind(kind))
        raise ConfigError(
            f"{text!r} is not a key: write principal, client_address, header:<name>, route "
            "or global"
        )


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a policy holds; an empty component matches everything.

    Args:
        methods: HTTP methods in upper case; `WEBSOCKET` for a WebSocket handshake.
        routes: Route templates such as `/items/{item_id}`; a final `*` matches any rest.
        tiers: Tiers of the principal.
    """

    methods: frozenset[str] = frozenset()
    routes: tuple[str, ...] = ()
    tiers: frozenset[str] = frozenset()

    def matches_route(self, method: str, template: str) -> bool:
        """Tell whether the policy holds the method and route template, whoever asks."""
        # HEAD is GET without the body (RFC 9110, 9.3.2): it must be no way round a limit on GET.
        asked = {method, "GET"} if method == "HEAD" else {method}
        if self.methods and not self.methods & asked:
            return False
        return not self.routes or any(_matches_template(route, template) for route in self.routes)


def _matches_template(route: str, template: str) -> bool:
    return template.startswith(route[:-1]) if route.endswith("*") else template == route


@dataclass(frozen=True)
class Policy:
    """A named set of limits on a key.

    Args:
        name: Unique name, bounded so that it can be a metric label.
        limits: Limits for every tier that `tiers` does not name.
        tiers: Limits by tier. Without `limits` the first tier holds everybody else.
        key: What a bucket is kept per.
        match: Which requests the policy holds; None where something names it explicitly.
        mode: Enforce, only count, or nothing.
        enforce_percent: Share of the keys, chosen by their hash, for which `enforce` refuses;
            the rest is counted as in shadow.
        on_store_error: What to do while the store is away.
        prefetch: The largest part of each limit that a replica may take in one call and spend by
            itself, above 0 and at most 0.5; None to ask the store each time.

    Raises:
        ConfigError: The values cannot work together.
    """

    name: str
    limits: tuple[Quota, ...] = ()
    tiers: Mapping[str, tuple[Quota, ...]] = field(default_factory=dict)
    key: tuple[KeyPart, ...] = (KeyPart(KeyKind.PRINCIPAL),)
    match: Match | None = None
    mode: Mode = Mode.ENFORCE
    enforce_percent: int = ALL_PERCENT
    on_store_error: OnStoreError = OnStoreError.LOCAL
    prefetch: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} is not a policy name: write 1 to 64 letters, digits, '.', '_', "
                "'/' or '-', starting with a letter or digit"
            )
        if not 0 <= self.enforce_percent <= ALL_PERCENT:
            raise ConfigError(f"enforce_percent is from 0 to 100, not {self.enforce_percent}")
        if not self.key:
            raise ConfigError(f"policy {self.name} has an empty key: write principal")
        if not self.limits and not self.tiers:
            raise ConfigError(f"policy {self.name} has no limits: add `limits` or `tiers`")
        for quotas in self.quota_sets():
            names = [quota.name for quota in quotas]
            if not quotas:
                raise ConfigError(f"policy {self.name} has a tier without limits: give it one")
            if len(set(names)) < len(names):
                raise ConfigError(
                    f"policy {self.name} has two limits of one algorithm and period: keep the "
                    "lower one"
                )
        _ = self._terms

    def quota_sets(self) -> list[tuple[Quota, ...]]:
        """Return the limits of all tiers."""
        return [*([self.limits] if self.limits else []), *self.tiers.values()]

    def quotas_for(self, tier: str) -> tuple[Quota, ...]:
        """Return the limits that hold a caller of this tier, as their buckets keep them."""
        slicing = self.prefetch_terms(tier)
        return self._configured_quotas(tier) if slicing is None else slicing.quotas

    def prefetch_terms(self, tier: str) -> PrefetchTerms | None:
        """Return the slices in which a replica spends these limits; None to ask the store."""
        return self._terms[self._configured_quotas(tier)] if self.prefetch is not None else None

    def _configured_quotas(self, tier: str) -> tuple[Quota, ...]:
        found = self.tiers.get(tier)
        if found is not None:
            return found
        return self.limits or next(iter(self.tiers.values()))

    @cached_property
    def _terms(self) -> Mapping[tuple[Quota, ...], PrefetchTerms]:
        if self.prefetch is None:
            return {}
        return {quotas: prefetch_terms(quotas, self.prefetch) for quotas in self.quota_sets()}

    @property
    def fully_enforced(self) -> bool:
        """Whether the policy refuses every caller who is over its limits."""
        return self.mode is Mode.ENFORCE and self.enforce_percent == ALL_PERCENT

    @cached_property
    def has_cacheable_plan(self) -> bool:
        """Whether what a caller spends on a route is the same each time, and from the same."""
        alike = all(part.kind in _CACHEABLE_KEY_KINDS for part in self.key)
        quotas = (quota for limits in self.quota_sets() for quota in limits)
        unleased = all(quota.algorithm is not Algorithm.CONCURRENCY for quota in quotas)
        return alike and unleased and self.enforce_percent == ALL_PERCENT

    @cached_property
    def key_headers(self) -> frozenset[str]:
        """Lower-case names of the request headers that the key is made from."""
        return frozenset(part.name for part in self.key if part.kind is KeyKind.HEADER)


class PolicySet:
    """An immutable set of policies, swapped whole on reload.

    Args:
        policies: The policies, in the order in which they are reported.
        generation: A number that grows with each set loaded by this process.
        digest: Hash of the text the set came from, equal on all replicas that serve it.
        source: Where the set came from, for people.

    Raises:
        ConfigError: Two policies have the same name.
    """

    def __init__(
        self,
        policies: Iterable[Policy] = (),
        *,
        generation: int = 0,
        digest: str = "",
        source: str = "code",
    ) -> None:
        self.policies = tuple(policies)
        self.generation = generation
        self.digest = digest
        self.source = source
        self._by_name = {policy.name: policy for policy in self.policies}
        if len(self._by_name) < len(self.policies):
            names = [policy.name for policy in self.policies]
            double = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two policies are named {double!r}: rename one of them")
        self.key_headers = frozenset().union(*(policy.key_headers for policy in self.policies))
        self._cached_select = lru_cache(_CACHE_SIZE)(self._select)

    def get(self, name: str) -> Policy | None:
        """Return the policy of this name, if there is one."""
        return self._by_name.get(name)

    def for_route(self, method: str, template: str) -> tuple[Policy, ...]:
        """Return the policies that can hold this route, whatever their tiers and mode.

        The policy `default` holds the route unless another policy holds it for every caller and
        is fully enforced: while a policy is tried in shadow, nobody is without a limit.
        """
        named = tuple(
            policy
            for policy in self.policies
            if policy.name != DEFAULT_POLICY
            and policy.mode is not Mode.OFF
            and policy.match is not None
            and policy.match.matches_route(method, template)
        )
        if any(
            policy.fully_enforced and policy.match and not policy.match.tiers for policy in named
        ):
            return named
        default = self._by_name.get(DEFAULT_POLICY)
        return (*named, default) if default and default.mode is not Mode.OFF else named

    def select(self, method: str, template: str, tier: str) -> tuple[Policy, ...]:
        """Return the policies that hold a request of this tier.

        `default` is among them unless another one is that is fully enforced.
        """
        # Some servers take any word for a method: what is kept must not grow with clients' words.
        kept = len(method) <= _MAX_METHOD_CHARS
        return (self._cached_select if kept else self._select)(method, template, tier)

    def _select(self, method: str, template: str, tier: str) -> tuple[Policy, ...]:
        found = self.for_route(method, template)
        named = tuple(
            policy
            for policy in found
            if policy.name != DEFAULT_POLICY
            and policy.match is not None
            and (not policy.match.tiers or tier in policy.match.tiers)
        )
        if any(policy.fully_enforced for policy in named):
            return named
        return (*named, *(policy for policy in found if policy.name == DEFAULT_POLICY))
