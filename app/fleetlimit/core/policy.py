"""Policy: named limits, the requests that they apply to, and what their buckets are keyed on."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPMethod
from operator import index
from types import MappingProxyType
from typing import Any, Final, Literal

from fleetlimit.call_advice import advised
from fleetlimit.core.counted_statuses import CountedStatuses, CountSpec, parse_count
from fleetlimit.core.exemption import (
    Exemption,
    ExemptionSource,
    parse_routes,
    parse_texts,
    to_exemption,
)
from fleetlimit.core.key_parts import KeyKind, KeyPart, KeySpec, parameter_names, parse_key
from fleetlimit.core.limit import (
    LimitSpec,
    limits_text,
    resolve_limits,
    strictest_quotas,
    tuple_text,
)
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.prefetch import PrefetchSpec, PrefetchTerms, prefetch_terms
from fleetlimit.core.quota import Algorithm, Quota, parse_enum
from fleetlimit.core.subject import UNVERIFIED_TIER
from fleetlimit.core.usage import Usage, require_settleable
from fleetlimit.errors import ConfigError

ALL_PERCENT = 100
_METHODS: Final = frozenset({"WEBSOCKET", *HTTPMethod})
_MATCH_EXAMPLE: Final = 'write Match(methods=["POST"], routes=["/exports"])'
_CACHEABLE_KEY_KINDS = frozenset({KeyKind.PRINCIPAL, KeyKind.ROUTE, KeyKind.GLOBAL})
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


@dataclass(frozen=True, slots=True, init=False)
class Match:
    """Requests that a policy applies to; an empty component matches everything.

    Args:
        methods: HTTP methods; `WEBSOCKET` for a WebSocket handshake.
        routes: Route templates such as `/items/{item_id}`; a final `*` matches any suffix.
        tiers: Tiers of the principal.

    Raises:
        ConfigError: An entry can match no request; the message says what to write.
    """

    methods: frozenset[str]
    routes: tuple[str, ...]
    tiers: frozenset[str]

    @advised('Match(methods=["POST"], routes=["/exports"])', {})
    def __init__(
        self,
        methods: Iterable[str] = (),
        routes: Iterable[str] = (),
        tiers: Iterable[str] = (),
    ) -> None:
        put = object.__setattr__
        put(self, "methods", frozenset(_parse_methods(methods)))
        put(self, "routes", parse_routes(routes, _MATCH_EXAMPLE))
        put(self, "tiers", frozenset(parse_texts("tiers", tiers, 'write Match(tiers=["pro"])')))

    def matches_route(self, method: str, template: str) -> bool:
        """Return whether the policy applies to a method and route template, for some tier."""
        # HEAD is GET without the body (RFC 9110, 9.3.2): it must not evade a limit on GET.
        methods = {method, "GET"} if method == "HEAD" else {method}
        if self.methods and not self.methods & methods:
            return False
        return not self.routes or any(_matches_template(route, template) for route in self.routes)


def _parse_methods(methods: Iterable[str]) -> list[str]:
    found = [each.upper() for each in parse_texts("methods", methods, _MATCH_EXAMPLE)]
    for each in found:
        if each not in _METHODS:
            raise ConfigError(f"{each!r} is not a method: write {', '.join(sorted(_METHODS))}")
    return found


def _require_match(match: object) -> None:
    if match is None or isinstance(match, Match):
        return
    raise ConfigError(f"match={match!r} is not a Match: {_MATCH_EXAMPLE}")


def _matches_template(route: str, template: str) -> bool:
    return template.startswith(route[:-1]) if route.endswith("*") else template == route


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
        key: What buckets are keyed on: one component or several, as in `RateLimit`.
        match: Requests that the policy applies to; None for a policy that only code names.
        mode: `enforce`, `shadow` to count without denying, or `off`.
        enforce_percent: Percentage of the keys, chosen by hash, for which `enforce` denies; for the
            other keys the policy is in shadow mode.
        on_store_error: Whether to `allow` or `deny` requests, or to limit them in each replica
            (`local`), while the store is unavailable.
        prefetch: Largest fraction of each limit that a replica may acquire ahead in one call, above
            0 and at most 0.5; `auto` for a sixteenth, of the buckets that it has asked repeatedly;
            None or `off` to call the store for every check.
        exempt: Requests that the policy applies to and does not limit: an `Exemption`, or a
            function of the connection, plain or async, that returns whether a request is exempt.
        limits_function: Function of the connection, plain or async, that returns the limits of the
            caller in place of `limits` and `tiers`, or None for these.
        count: Statuses of the responses that count: `all`, `failure` for 400 to 599, or a list of
            statuses and classes of them, such as `[401, "5xx"]`. Every admitted request spends its
            cost; one whose status does not count gets it back.
        cost: `Usage` for a cost that the answer of a large language model states; None for the
            cost that the code gives, by default 1.

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
    prefetch: PrefetchSpec | None
    exempt: ExemptionSource | None
    limits_function: PolicyFunction | None
    count: CountedStatuses | None
    cost: Usage | None
    has_cacheable_plan: bool = field(init=False, compare=False)
    """Whether the plan of a caller on a route is constant, so that `PlanCache` may cache it."""
    has_leases: bool = field(init=False, compare=False)
    """Whether a tier has a `concurrency` limit, whose units must be released."""
    key_headers: frozenset[str] = field(init=False, compare=False)
    """Lower-case names of the request headers that the key is made from."""
    key_paths: frozenset[str] = field(init=False, compare=False)
    """Names of the path parameters that the key is made from."""
    key_functions: tuple[PolicyFunction, ...] = field(init=False, compare=False)
    """Functions that return parts of the key."""
    _terms: Mapping[tuple[Quota, ...], PrefetchTerms | None] = field(init=False, compare=False)
    _strictest: tuple[Quota, ...] = field(init=False, compare=False)

    @advised(
        'Policy("exports", "5/minute")',
        {"when": lambda given: f"write count={given['when']!r}"},
    )
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
        prefetch: PrefetchSpec | None = None,
        exempt: Exemption | PolicyFunction | Callable[[Any], Any] | None = None,
        limits_function: Callable[[Any], Any] | None = None,
        count: CountSpec | CountedStatuses | None = "all",
        cost: Usage | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "limits", resolve_limits(limits))
        put(self, "tiers", {tier: resolve_limits(each) for tier, each in tiers.items()})
        put(self, "key", parse_key(key))
        _require_match(match)
        put(self, "match", match)
        put(self, "mode", parse_enum(Mode, mode))
        put(self, "enforce_percent", _whole_percent(enforce_percent))
        put(self, "on_store_error", parse_enum(OnStoreError, on_store_error))
        put(self, "prefetch", prefetch)
        put(self, "exempt", to_exemption(exempt))
        function = None if limits_function is None else PolicyFunction(limits_function)
        put(self, "limits_function", function)
        put(self, "count", None if count is None else parse_count(count))
        put(self, "cost", cost)
        self._check()
        sets = self.quota_sets()
        put(self, "_strictest", strictest_quotas(sets))
        sets.append(self._strictest)
        spec: PrefetchSpec = "off" if prefetch is None else prefetch
        put(self, "_terms", {each: prefetch_terms(each, spec) for each in sets})
        quotas = [quota for each in sets for quota in each]
        leases = any(quota.algorithm is Algorithm.CONCURRENCY for quota in quotas)
        put(self, "has_leases", leases)
        if self.is_settled:
            require_settleable(
                self.name,
                self.count,
                self.cost,
                self.quota_sets(),
                has_leases=leases,
                methods=match.methods if match is not None else (),
            )
        put(self, "has_cacheable_plan", self._is_plan_constant())
        put(self, "key_headers", self._key_names(KeyKind.HEADER))
        put(self, "key_paths", self._key_names(KeyKind.PATH))
        functions = tuple(part.function for part in self.key if part.function is not None)
        put(self, "key_functions", functions)

    def _key_names(self, kind: KeyKind) -> frozenset[str]:
        return frozenset(part.name for part in self.key if part.kind is kind)

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
        for route in self.match.routes if self.match is not None else ():
            missing = sorted(self._key_names(KeyKind.PATH) - parameter_names(route))
            if missing and not route.endswith("*"):
                raise ConfigError(
                    f"policy {self.name} is keyed on path:{missing[0]}, which {route} does not "
                    f"have: write a route such as /items/{{{missing[0]}}}, or another key"
                )

    @property
    def is_settled(self) -> bool:
        """Whether the status of the response, or the answer, corrects the cost."""
        return self.count is not None or self.cost is not None

    def _is_plan_constant(self) -> bool:
        by_caller = all(part.kind in _CACHEABLE_KEY_KINDS for part in self.key)
        by_address = self.exemption is not None and bool(self.exemption.networks)
        constant = by_caller and not by_address and not self.has_leases
        return constant and self.enforce_percent == ALL_PERCENT

    def __repr__(self) -> str:
        words = [repr(self.name), limits_text(self.limits)]
        if self.tiers:
            tiers = [f"{tier!r}: {limits_text(each)}" for tier, each in self.tiers.items()]
            words.append(f"tiers={{{', '.join(tiers)}}}")
        words.append(f"key={tuple_text([repr(str(part)) for part in self.key])}")
        words += [f"match={self.match!r}"] if self.match is not None else []
        words.append(f"mode={self.mode.value!r}")
        if self.enforce_percent != ALL_PERCENT:
            words.append(f"enforce_percent={self.enforce_percent}")
        words.append(f"on_store_error={self.on_store_error.value!r}")
        words += [f"prefetch={self.prefetch}"] if self.prefetch is not None else []
        words += [f"exempt={self.exempt!r}"] if self.exempt is not None else []
        if self.limits_function is not None:
            words.append(f"limits_function={self.limits_function!r}")
        words += [f"count={self.count.text!r}"] if self.count is not None else []
        words += [f"cost={self.cost!r}"] if self.cost is not None else []
        return f"Policy({', '.join(words)})"

    @property
    def exemption(self) -> Exemption | None:
        """The exemption by lists; None without one, or where a function decides."""
        return self.exempt if isinstance(self.exempt, Exemption) else None

    def quota_sets(self) -> list[tuple[Quota, ...]]:
        """Return the configured quotas of all tiers."""
        return [*([self.limits] if self.limits else []), *self.tiers.values()]

    def quotas_for(self, tier: str) -> tuple[Quota, ...]:
        """Return the quotas of callers of this tier."""
        quotas = self.tiers.get(tier)
        if quotas is not None:
            return quotas
        if tier == UNVERIFIED_TIER:
            return self._strictest
        return self.limits or next(iter(self.tiers.values()))

    def prefetch_terms(self, tier: str) -> PrefetchTerms | None:
        """Return the terms of prefetching for this tier; None without prefetch."""
        return self._terms[self.quotas_for(tier)]

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
