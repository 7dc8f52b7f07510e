"""The limits that apply to a caller on any route of its app, with their state, spending nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.requests import HTTPConnection

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.key_parts import KeyKind
from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import UNMATCHED_ROUTE, Identity, KeyValues, Subject
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.limit_switch import LIMIT_SWITCH
from fleetlimit.limiter.plan import PolicyCost, is_exempt
from fleetlimit.web.app_limiter import LIMITER_KEY, has_own_limiter
from fleetlimit.web.app_routes import get_app_route_table
from fleetlimit.web.exemptions import Exemptions
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.limit_functions import LimitFunctions
from fleetlimit.web.request_limits import get_request_limits, join_headers
from fleetlimit.web.request_values import KeySources
from fleetlimit.web.route_info import UNMATCHED, RouteInfo
from fleetlimit.web.route_policies import METHODS, RateLimitDependency

MAX_BUCKETS: Final = 256
"""Buckets of one answer. All are looked at in one call of the store, which takes about 2 ms."""
MAX_CACHED_TIERS: Final = 64
"""Tiers whose policies are cached, as for each route."""


@dataclass(frozen=True, slots=True)
class CallerLimit:
    """One limit of a policy.

    Args:
        policy: The policy.
        route: Methods and template of the route that the limit belongs to; empty if its bucket does
            not depend on the route.
        quota: The limit in integers.
        status: State of the bucket; None if its key has a part that only other requests have.
    """

    policy: Policy
    route: str
    quota: Quota
    status: BucketStatus | None


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """All limits of a caller.

    Args:
        identity: The caller.
        limits: The limits: those of the policies in their order, then those in code.
        is_complete: Whether no limit was left out.
    """

    identity: Identity
    limits: Sequence[CallerLimit]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class _Check:
    policy: Policy
    route: RouteInfo

    @property
    def route_name(self) -> str:
        """Name of the route; empty if the bucket does not depend on it."""
        by_route = any(part.kind in {KeyKind.ROUTE, KeyKind.PATH} for part in self.policy.key)
        return self.route.name if by_route else ""


@dataclass(frozen=True, slots=True)
class _Checks:
    """The policies of the routes, for callers of one tier.

    Args:
        policy_set: Policy set that they are of.
        routes: Routes that they are of.
        providers: Apps whose `dependency_overrides` change the limits of a route.
        every: Each policy with each route that it applies to.
        first: Each policy with its first route, or with each of them if they have buckets of their
            own. Policies whose buckets do not depend on the route come first.
    """

    policy_set: PolicySet
    routes: Sequence[RouteInfo]
    providers: Sequence[Any]
    every: Sequence[_Check]
    first: Sequence[_Check]

    @property
    def is_constant(self) -> bool:
        """Whether no app has overrides, which change without a trace."""
        return not any(each.dependency_overrides for each in self.providers)


class CallerLimitFinder:
    """Finds the limits of callers, on any route of the app that a request belongs to.

    Many routes and policies take some 10 ms to compare, so the result is cached for each tier.
    """

    def __init__(self) -> None:
        self._cache: BoundedCache[tuple[Any, str, bool], _Checks] = BoundedCache(MAX_CACHED_TIERS)

    async def find(self, connection: HTTPConnection, http_limiter: HTTPLimiter) -> CallerLimits:
        """Return the limits of the caller of a request.

        Args:
            connection: The request.
            http_limiter: Its limiter.

        Raises:
            StoreError: The store is unavailable.
        """
        identity = await http_limiter.identifier.identify(connection.scope)
        if LIMIT_SWITCH.is_off:
            return CallerLimits(identity, (), is_complete=True)
        # Without a route: what exempts it is not what exempts other routes.
        caller = Subject(
            identity.client_address,
            identity.principal,
            route="",
            unverified=identity.error is not None,
        )
        checks = self._checks_of(connection, http_limiter, caller.tier)
        known: list[tuple[_Check, Subject]] = []
        unknown: list[_Check] = []
        buckets, is_complete = 0, True
        keys = _CallerKeys(caller, connection, http_limiter)
        limiting = await _without_exempt(checks, connection, http_limiter, caller)
        costs = await _costs_of(limiting, connection, http_limiter, caller)
        for check in limiting:
            cost = costs[check.policy.name]
            buckets += len(cost.own_quotas or check.policy.quotas_for(caller.tier))
            if buckets > MAX_BUCKETS:
                is_complete = False
                break
            subject = await keys.subject_of(check)
            if subject is None:
                unknown.append(check)
            else:
                known.append((check, subject))
        results = await http_limiter.limiter.peek_each(
            [(costs[check.policy.name], subject) for check, subject in known]
        )
        limits: list[CallerLimit] = []
        for (check, _), found in zip(known, results, strict=True):
            # A caller sees nothing of a policy in shadow mode.
            if found is not None and found[0].mode is Mode.ENFORCE:
                limits += [
                    CallerLimit(check.policy, check.route_name, quota, status)
                    for quota, status in zip(found[0].quotas, found[1], strict=True)
                ]
        for check in unknown:
            if check.policy.mode is Mode.ENFORCE:
                own = costs[check.policy.name].own_quotas
                limits += [
                    CallerLimit(check.policy, check.route_name, quota, None)
                    for quota in own or check.policy.quotas_for(caller.tier)
                ]
        return CallerLimits(identity, limits, is_complete)

    def _checks_of(
        self, connection: HTTPConnection, http_limiter: HTTPLimiter, tier: str
    ) -> _Checks:
        match_policies = _has_middleware(connection, http_limiter)
        policy_set = http_limiter.limiter.active_policies.current
        router = connection.scope.get("router") or connection.scope["app"].router
        routes = get_app_route_table(router).routes
        key = (http_limiter, tier, match_policies)
        cached = self._cache.get(key)
        if (
            cached is not None
            and cached.policy_set is policy_set
            and cached.routes is routes
            and cached.is_constant
        ):
            return cached
        own = list(_routes(connection, http_limiter, routes))
        every = [
            _Check(policy, route)
            for route in own
            for policy in _policies(route, http_limiter, tier, match_policies=match_policies)
            if policy.mode is not Mode.OFF
        ]
        providers = {id(each.overrides_provider): each.overrides_provider for each in own}
        found = _Checks(
            policy_set,
            routes,
            [each for each in providers.values() if each is not None],
            every,
            _first_of(every),
        )
        if found.is_constant:
            self._cache.put(key, found)
        return found


def _first_of(checks: Iterable[_Check]) -> list[_Check]:
    first: dict[tuple[str, str], _Check] = {}
    for each in checks:
        first.setdefault((each.policy.name, each.route_name), each)
    return sorted(first.values(), key=lambda each: bool(each.route_name))


async def _without_exempt(
    checks: _Checks, connection: HTTPConnection, http_limiter: HTTPLimiter, caller: Subject
) -> Sequence[_Check]:
    """Return the checks that limit the caller."""
    policies = {each.policy.name: each.policy for each in checks.first}
    exemptions = Exemptions.of(policies.values(), http_limiter)
    if exemptions is None:
        return checks.first
    costs = await exemptions.apply(
        [PolicyCost(each, 1) for each in policies.values()], caller, connection.scope, http_limiter
    )
    exempt = {each.policy.name for each in costs if each.exempt}
    # A policy may be exempt on its first route alone.
    return _first_of(
        each
        for each in checks.every
        if each.policy.name not in exempt
        and not is_exempt(each.policy, replace(caller, route=each.route.name), exemptions.exemption)
    )


async def _costs_of(
    checks: Iterable[_Check],
    connection: HTTPConnection,
    http_limiter: HTTPLimiter,
    caller: Subject,
) -> dict[str, PolicyCost]:
    """Return a cost of 1 under each policy by name, with the caller's own limits."""
    policies = {each.policy.name: each.policy for each in checks}
    costs: Sequence[PolicyCost] = [PolicyCost(each, 1) for each in policies.values()]
    functions = LimitFunctions.of(policies.values())
    if functions is not None:
        costs = await functions.apply(costs, connection.scope, http_limiter)
    provided = http_limiter.limiter.provided_limits
    if provided is not None:
        costs = await provided.apply(costs, caller)
    return {each.policy.name: each for each in costs}


def _has_middleware(connection: HTTPConnection, http_limiter: HTTPLimiter) -> bool:
    """Return whether a middleware applies the limiter's policies by their match."""
    outer = get_request_limits(connection.scope)
    return (
        outer is not None
        and outer.http_limiter is http_limiter
        and outer.headers_sent_by_middleware
    )


def _routes(
    connection: HTTPConnection, http_limiter: HTTPLimiter, routes: Iterable[RouteInfo]
) -> Iterator[RouteInfo]:
    """Yield the routes of the apps that use the limiter, and the paths that no route takes."""
    app = connection.scope["app"]
    # Starlette leaves the outermost app's router in the scope.
    is_outermost = connection.scope.get("router") is app.router or not has_own_limiter(app)
    for route in routes:
        if route.mounted_app is None:
            uses_limiter = is_outermost
        else:
            own = getattr(route.mounted_app, LIMITER_KEY, None)
            uses_limiter = own is http_limiter or (own is None and is_outermost)
        if uses_limiter:
            yield route
    if is_outermost:
        yield UNMATCHED


def _policies(
    route: RouteInfo, http_limiter: HTTPLimiter, tier: str, *, match_policies: bool
) -> Iterator[Policy]:
    """Yield the policies of a route, those of its dependencies last."""
    policy_set = http_limiter.limiter.active_policies.current
    if match_policies:
        for method in sorted(route.methods or METHODS):
            template = route.template or UNMATCHED_ROUTE
            selected = {each.name for each in policy_set.select(method, template, tier)}
            possible = route.policies_for(policy_set, method)
            yield from (each for each in possible if each.name in selected)
    for dependency in filter(route.is_limited_by, route.active_rate_limits()):
        policy = _policy_of(dependency, http_limiter)
        if policy is not None:
            yield policy


def _policy_of(dependency: RateLimitDependency, http_limiter: HTTPLimiter) -> Policy | None:
    try:
        return dependency.resolve_policy(http_limiter)
    except ConfigError:
        # A route that was added after the start may name a policy that does not exist.
        return None


class _CallerKeys:
    """Subjects of a caller's checks; each key function is called once for all of them."""

    def __init__(
        self, caller: Subject, connection: HTTPConnection, http_limiter: HTTPLimiter
    ) -> None:
        self._caller = caller
        self._scope = connection.scope
        self._http_limiter = http_limiter
        # None for a function that has failed.
        self._values: dict[PolicyFunction, str | None] = {}

    async def subject_of(self, check: _Check) -> Subject | None:
        """Return the subject of a check; None if the request lacks a part of the policy's key."""
        policy = check.policy
        if policy.key_paths:
            return None
        headers = join_headers(self._scope, policy.key_headers)
        subject = replace(self._caller, route=check.route.name, headers=headers)
        values: dict[PolicyFunction, str] = {}
        for function in policy.key_functions:
            value = await self._value_of(function, check.route)
            if value is None:
                return None
            values[function] = value
        if values:
            subject.key_values = KeyValues(functions=values)
        return subject

    async def _value_of(self, function: PolicyFunction, route: RouteInfo) -> str | None:
        if function not in self._values:
            self._values[function] = await self._call(function, route)
        return self._values[function]

    async def _call(self, function: PolicyFunction, route: RouteInfo) -> str | None:
        try:
            values = await KeySources((), (function,)).resolve(
                self._scope, route, self._http_limiter.function_timeout_s
            )
        except Exception as error:  # noqa: BLE001 - a function of the app may raise anything
            self._http_limiter.failure_log.write("key.failed", error)
            return None
        return values.functions[function]
