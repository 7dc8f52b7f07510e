"""Policies: which requests they apply to, what their buckets are keyed on, and their limits."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from operator import index
from types import MappingProxyType
from typing import Final, Literal

from fleetlimit.core.prefetch import PrefetchTerms, prefetch_terms
from fleetlimit.core.quota import Algorithm, Limit, Quota, parse_enum, rate_quota
from fleetlimit.core.subject import UNVERIFIED_TIER
from fleetlimit.errors import ConfigError

DEFAULT_POLICY = "default"
IN_CODE: Final = "code"
"""Source of a policy set that no file defines."""
ALL_PERCENT = 100
_CACHE_SIZE = 4_096
_MAX_METHOD_CHARS = 32
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
"""A token of RFC 9110, 5.6.2, of bounded length."""
MAX_NAME_CHARS: Final = 64
"""Largest length of a policy's name, which is a metric label."""
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._/-]{{0,{MAX_NAME_CHARS - 1}}}", re.ASCII)


class Mode(StrEnum):
    """Whether a policy denies requests (`enforce`), only counts (`shadow`), or is disabled."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OFF = "off"


ModeName = Literal["enforce", "shadow", "off"]
"""Value of a `Mode`, as code writes it."""


class OnStoreError(StrEnum):
    """What a policy does while the shared store is unavailable."""

    ALLOW = "allow"
    DENY = "deny"
    LOCAL = "local"


OnStoreErrorName = Literal["allow", "deny", "local"]
"""Value of an `OnStoreError`, as code writes it."""


class KeyKind(StrEnum):
    """Property of a request that buckets can be keyed on."""

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
        """Parse `principal`, `client_address`, `header:<name>`, `route` or `global`.

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

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)


@dataclass(frozen=True, slots=True)
class Match:
    """Requests that a policy applies to; an empty component matches everything.

    Args:
        methods: HTTP methods in upper case; `WEBSOCKET` for a WebSocket handshake.
        routes: Route templates such as `/items/{item_id}`; a final `*` matches any suffix.
        tiers: Tiers of the principal.
    """

    methods: frozenset[str] = frozenset()
    routes: tuple[str, ...] = ()
    tiers: frozenset[str] = frozenset()

    def matches_route(self, method: str, template: str) -> bool:
        """Return whether the policy applies to a method and route template, for some tier."""
        # HEAD is GET without the body (RFC 9110, 9.3.2): it must not evade a limit on GET.
        methods = {method, "GET"} if method == "HEAD" else {method}
        if self.methods and not self.methods & methods:
            return False
        return not self.routes or any(_matches_template(route, template) for route in self.routes)


def _matches_template(route: str, template: str) -> bool:
    return template.startswith(route[:-1]) if route.endswith("*") else template == route


LimitSpec = str | Limit | Quota
"""A rate such as `100/minute`, a `Limit`, or a resolved quota."""
KeySpec = str | KeyPart
"""A component of a key, such as `header:X-Tenant`, or the parsed one."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Policy:
    """A named set of limits, and what they apply to.

    `Policy("exports", "5/minute", key=("header:X-Tenant", "route"))` limits each tenant to five
    requests per minute on each route.

    Args:
        name: Unique name, bounded so that it can be a metric label.
        limits: Limits of every tier that `tiers` does not name.
        tiers: Limits by tier. Without `limits` those of the first tier apply to all other callers.
            The limits of all tiers apply to a caller whose credential did not verify.
        key: What buckets are keyed on.
        match: Requests that the policy applies to; None for a policy that only code names.
        mode: `enforce`, `shadow` to count without denying, or `off`.
        enforce_percent: Percentage of the keys, chosen by hash, for which `enforce` denies; for the
            other keys the policy is in shadow mode.
        on_store_error: Whether to `allow` or `deny` requests, or to limit them in each replica
            (`local`), while the store is unavailable.
        prefetch: Largest fraction of each limit that a replica may acquire ahead in one call, above
            0 and at most 0.5; None to call the store for every check.

    Raises:
        ConfigError: The values cannot work together.
    """

    name: str
    limits: tuple[Quota, ...]
    tiers: Mapping[str, tuple[Quota, ...]]
    key: tuple[KeyPart, ...]
    match: Match | None
    mode: Mode
    enforce_percent: int
    on_store_error: OnStoreError
    prefetch: float | None
    has_cacheable_plan: bool = field(init=False, compare=False)
    """Whether the plan of a caller on a route is constant, so that `PlanCache` may cache it."""
    has_leases: bool = field(init=False, compare=False)
    """Whether a tier has a `concurrency` limit, whose units must be released."""
    key_headers: frozenset[str] = field(init=False, compare=False)
    """Lower-case names of the request headers that the key is made from."""
    _terms: Mapping[tuple[Quota, ...], PrefetchTerms] = field(init=False, compare=False)
    _strictest: tuple[Quota, ...] = field(init=False, compare=False)

    def __init__(
        self,
        name: str,
        limits: LimitSpec | Sequence[LimitSpec] = (),
        tiers: Mapping[str, LimitSpec | Sequence[LimitSpec]] = MappingProxyType({}),
        *,
        key: KeySpec | Sequence[KeySpec] = "principal",
        match: Match | None = None,
        mode: Mode | ModeName = "enforce",
        enforce_percent: int = ALL_PERCENT,
        on_store_error: OnStoreError | OnStoreErrorName = "local",
        prefetch: float | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "limits", _resolve_limits(limits))
        put(self, "tiers", {tier: _resolve_limits(each) for tier, each in tiers.items()})
        put(self, "key", _parse_key(key))
        put(self, "match", match)
        put(self, "mode", parse_enum(Mode, mode))
        put(self, "enforce_percent", _whole_percent(enforce_percent))
        put(self, "on_store_error", parse_enum(OnStoreError, on_store_error))
        put(self, "prefetch", prefetch)
        self._check()
        sets = self.quota_sets()
        put(self, "_strictest", _strictest(sets))
        sets.append(self._strictest)
        terms = {} if prefetch is None else {each: prefetch_terms(each, prefetch) for each in sets}
        put(self, "_terms", terms)
        quotas = [quota for each in sets for quota in each]
        leases = any(quota.algorithm is Algorithm.CONCURRENCY for quota in quotas)
        put(self, "has_leases", leases)
        put(self, "has_cacheable_plan", self._is_plan_constant())
        headers = (part.name for part in self.key if part.kind is KeyKind.HEADER)
        put(self, "key_headers", frozenset(headers))

    def _check(self) -> None:
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

    def _is_plan_constant(self) -> bool:
        by_caller = all(part.kind in _CACHEABLE_KEY_KINDS for part in self.key)
        return by_caller and not self.has_leases and self.enforce_percent == ALL_PERCENT

    def __repr__(self) -> str:
        words = [repr(self.name), _limits_text(self.limits)]
        if self.tiers:
            tiers = [f"{tier!r}: {_limits_text(each)}" for tier, each in self.tiers.items()]
            words.append(f"tiers={{{', '.join(tiers)}}}")
        words.append(f"key={_tuple_text([repr(str(part)) for part in self.key])}")
        words += [f"match={self.match!r}"] if self.match is not None else []
        words.append(f"mode={self.mode.value!r}")
        if self.enforce_percent != ALL_PERCENT:
            words.append(f"enforce_percent={self.enforce_percent}")
        words.append(f"on_store_error={self.on_store_error.value!r}")
        words += [f"prefetch={self.prefetch}"] if self.prefetch is not None else []
        return f"Policy({', '.join(words)})"

    def quota_sets(self) -> list[tuple[Quota, ...]]:
        """Return the configured quotas of all tiers."""
        return [*([self.limits] if self.limits else []), *self.tiers.values()]

    def quotas_for(self, tier: str) -> tuple[Quota, ...]:
        """Return the quotas that the buckets of callers of this tier are kept with."""
        terms = self.prefetch_terms(tier)
        return self._configured_quotas(tier) if terms is None else terms.quotas

    def prefetch_terms(self, tier: str) -> PrefetchTerms | None:
        """Return the terms of prefetching for this tier; None without prefetch."""
        return self._terms[self._configured_quotas(tier)] if self.prefetch is not None else None

    def _configured_quotas(self, tier: str) -> tuple[Quota, ...]:
        quotas = self.tiers.get(tier)
        if quotas is not None:
            return quotas
        if tier == UNVERIFIED_TIER:
            return self._strictest
        return self.limits or next(iter(self.tiers.values()))

    @property
    def fully_enforced(self) -> bool:
        """Whether the policy denies every caller above its limits."""
        return self.mode is Mode.ENFORCE and self.enforce_percent == ALL_PERCENT


def _whole_percent(percent: int) -> int:
    try:
        return int(index(percent))
    except TypeError:
        raise ConfigError(
            f"enforce_percent is a whole number from 0 to 100, not {percent!r}"
        ) from None


def _strictest(quota_sets: Iterable[tuple[Quota, ...]]) -> tuple[Quota, ...]:
    """Return the quotas of all tiers; of those that share a bucket, the one that admits least."""
    by_name: dict[str, Quota] = {}
    for quota in (each for quotas in quota_sets for each in quotas):
        kept = by_name.setdefault(quota.name, quota)
        if (quota.limit / quota.cost, quota.burst) < (kept.limit / kept.cost, kept.burst):
            by_name[quota.name] = quota
    return tuple(by_name.values())


def _resolve_limits(limits: LimitSpec | Sequence[LimitSpec]) -> tuple[Quota, ...]:
    if isinstance(limits, str | Limit | Quota):
        limits = (limits,)
    return tuple([_resolve_limit(each) for each in limits])


def _resolve_limit(limit: LimitSpec) -> Quota:
    if isinstance(limit, str):
        return rate_quota(limit)
    return limit.quota if isinstance(limit, Limit) else limit


def _parse_key(key: KeySpec | Sequence[KeySpec]) -> tuple[KeyPart, ...]:
    parts = (key,) if isinstance(key, str | KeyPart) else key
    return tuple([KeyPart.parse(part) if isinstance(part, str) else part for part in parts])


def _limits_text(quotas: Iterable[Quota]) -> str:
    return _tuple_text([repr(Limit(quota)) for quota in quotas])


def _tuple_text(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


class PolicySet:
    """Immutable set of policies, replaced as a whole on reload.

    Args:
        policies: The policies, in the order in which they are reported.
        generation: Number that grows with each set that this process loads.
        digest: Hash of the text of the policy file, equal on all replicas that serve it.
        source: Description of the origin, for error messages.

    Raises:
        ConfigError: Two policies have the same name.
    """

    def __init__(
        self,
        policies: Iterable[Policy] = (),
        *,
        generation: int = 0,
        digest: str = "",
        source: str = IN_CODE,
    ) -> None:
        self.policies: Final = tuple(policies)
        self.generation: Final = generation
        self.digest: Final = digest
        self.source: Final = source
        self._by_name = {policy.name: policy for policy in self.policies}
        if len(self._by_name) < len(self.policies):
            names = [policy.name for policy in self.policies]
            double = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two policies are named {double!r}: rename one of them")
        self._cached_select = lru_cache(_CACHE_SIZE)(self._select)

    def get(self, name: str) -> Policy | None:
        """Return the policy of this name, or None."""
        return self._by_name.get(name)

    def for_route(self, method: str, template: str) -> tuple[Policy, ...]:
        """Return the policies that can apply to this route, for any tier.

        The policy `default` applies to a route unless another policy applies to it for every tier
        and is fully enforced. A policy in shadow mode therefore never leaves a route unlimited.
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
        """Return the policies that apply to a request of this tier.

        `default` is among them unless another one is that is fully enforced. For a caller whose
        credential did not verify, the policies of all tiers apply.
        """
        # Some servers accept any text as a method: clients must not be able to fill the cache.
        cacheable = len(method) <= _MAX_METHOD_CHARS
        return (self._cached_select if cacheable else self._select)(method, template, tier)

    def _select(self, method: str, template: str, tier: str) -> tuple[Policy, ...]:
        candidates = self.for_route(method, template)
        if tier == UNVERIFIED_TIER:
            return candidates
        named = tuple(
            policy
            for policy in candidates
            if policy.name != DEFAULT_POLICY
            and policy.match is not None
            and (not policy.match.tiers or tier in policy.match.tiers)
        )
        if any(policy.fully_enforced for policy in named):
            return named
        return (*named, *(policy for policy in candidates if policy.name == DEFAULT_POLICY))
