"""Report of the policies of each route: logged at start, and listed on the admin port.

An app has many routes, and most of them are unlimited on purpose. The log has a summary, and a
warning only for a limit that has no effect; the routes themselves are at level DEBUG.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from fleetlimit.bootstrap.app_middlewares import has_middleware
from fleetlimit.bootstrap.constant_costs import (
    callers_below_cost,
    constant_cost,
    require_possible_cost,
)
from fleetlimit.bootstrap.settled_costs import (
    kept_estimates,
    require_readable_answer,
    require_seen_response,
)
from fleetlimit.bootstrap.unused_policies import UnusedPolicy, find_unused_policies
from fleetlimit.bootstrap.unused_prefetch import unused_prefetches
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.errors import ConfigError
from fleetlimit.telemetry import names
from fleetlimit.web.app_limiter import has_own_limiter, mounted_apps
from fleetlimit.web.app_routes import AppRouteTable
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.request_values import require_path_parameters
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import RateLimitDependency, require_same_policy
from fleetlimit.web.route_table import RouteTable

ANY_METHOD = "ANY"


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """A route and the policies that apply to it.

    Args:
        method: One of the route's methods, or ANY.
        template: Path template of the route.
        policies: Names of the policies; those of the route's dependencies come last.
        is_exempt: Whether no policy applies because of an exemption.
    """

    method: str
    template: str
    policies: tuple[str, ...]
    is_exempt: bool = False


def limits_by_route(
    routes: RouteTable,
    policies: PolicySet,
    http_limiter: HTTPLimiter,
    *,
    match_policies: bool = True,
) -> Iterator[RouteLimits]:
    """Yield each route with its policies, and last the policies of unmatched requests.

    Args:
        routes: Routes of the app.
        policies: The active policies.
        http_limiter: Limiter that resolves the dependencies of the routes.
        match_policies: Whether the app has the middleware, which applies policies by their match.
    """
    for route in routes.routes:
        for method in _methods(route):
            found = _policies(
                route, (method,), policies, http_limiter, match_policies=match_policies
            )
            limiting = _limiting(found, route, http_limiter)
            yield RouteLimits(method, route.template, tuple(limiting), bool(found) and not limiting)
    if match_policies:
        unmatched = policies.for_route(ANY_METHOD, UNMATCHED_ROUTE)
        yield RouteLimits(ANY_METHOD, UNMATCHED_ROUTE, tuple(policy.name for policy in unmatched))


def _limited_routes(
    routes: RouteTable, policies: PolicySet, http_limiter: HTTPLimiter, *, match_policies: bool
) -> Iterator[tuple[str, Policy]]:
    """Yield each route with each policy that applies to it, and last those of unmatched requests.

    Arguments are those of `limits_by_route`.
    """
    for route in routes.routes:
        found = _policies(
            route, _methods(route), policies, http_limiter, match_policies=match_policies
        )
        for policy in _limiting(found, route, http_limiter).values():
            yield route.name, policy
    if match_policies:
        for policy in policies.for_route(ANY_METHOD, UNMATCHED_ROUTE):
            yield UNMATCHED_ROUTE, policy


def _methods(route: RouteInfo) -> Sequence[str]:
    return sorted(route.methods - {"HEAD"}) or [ANY_METHOD]


def _policies(
    route: RouteInfo,
    methods: Iterable[str],
    policies: PolicySet,
    http_limiter: HTTPLimiter,
    *,
    match_policies: bool,
) -> dict[str, Policy]:
    """Return the policies of a route by name, those of its dependencies last."""
    found: list[Policy] = []
    if match_policies:
        found += chain.from_iterable(route.policies_for(policies, each) for each in methods)
    found += _dependency_policies(route, http_limiter)
    return {policy.name: policy for policy in found}


def _limiting(
    policies: Mapping[str, Policy], route: RouteInfo, http_limiter: HTTPLimiter
) -> dict[str, Policy]:
    """Return the policies that do not exempt the whole route."""
    everywhere = http_limiter.limiter.exemption
    if everywhere is not None and everywhere.includes_route(route.template):
        return {}
    return {
        name: policy
        for name, policy in policies.items()
        if policy.exemption is None or not policy.exemption.includes_route(route.template)
    }


def checked_dependencies(route: RouteInfo) -> tuple[RateLimitDependency, ...]:
    """Return the route's limits, or none if a mounted app checks them with its own limiter."""
    if route.mounted_app is not None and has_own_limiter(route.mounted_app):
        return ()
    return route.active_rate_limits()


def _dependency_policies(route: RouteInfo, http_limiter: HTTPLimiter) -> Iterator[Policy]:
    for each in checked_dependencies(route):
        # A route that the app added after its start may name a policy that does not exist. Its
        # requests fail, and the report has the other routes.
        with contextlib.suppress(ConfigError):
            yield each.resolve_policy(http_limiter)


class RouteReporter:
    """Logs the policies of each route at start and unused policies, and rejects bad reloads.

    Args:
        log: Structured logger.
        http_limiter: Limiter that resolves the dependencies of the routes.
        on_limited: Receives the routes, each with a policy that applies to it, at start and after
            each change of the policies or routes.
    """

    def __init__(
        self,
        log: Any,
        http_limiter: HTTPLimiter,
        on_limited: Callable[[Iterable[tuple[str, Policy]]], None],
    ) -> None:
        self._log = log
        self._http_limiter = http_limiter
        self._on_limited = on_limited
        # The policies and the routes that were passed to `on_limited`.
        self._reported: list[object] = []
        # The dependency with the largest constant cost under each policy, if one has such a cost.
        self._dependency_by_policy: dict[str, RateLimitDependency] = {}
        self._inline_policies: dict[str, Policy] = {}
        # Dependencies of routes whose responses no middleware sees, by policy.
        self._unseen: dict[str, RateLimitDependency] = {}
        self._tables: list[RouteTable] = []
        self._match_policies = False
        # Whether a mounted app has the middleware. Which routes it is around, their requests show.
        self._match_in_mounted_apps = False

    def log_routes(self, routes: RouteTable, *, match_policies: bool) -> None:
        """Log the routes of an app, and warn if no route is limited or a policy applies to none.

        Args:
            routes: Routes of the app.
            match_policies: Whether the app has the middleware, which applies policies by their
                match.

        Raises:
            ConfigError: A dependency names a policy that does not exist, or has a cost that it can
                never admit; two different limits have one name; or a route lacks a path parameter
                of a key.
        """
        policies = self._http_limiter.limiter.active_policies.current
        self.add_routes(routes, match_policies=match_policies)
        limited = unlimited = 0
        for route_limits in limits_by_route(
            routes, policies, self._http_limiter, match_policies=match_policies
        ):
            if route_limits.policies:
                event, limited = names.LOG_ROUTE_LIMITED, limited + 1
            else:
                event, unlimited = names.LOG_ROUTE_UNLIMITED, unlimited + 1
            self._log.debug(
                event,
                method=route_limits.method,
                route=route_limits.template,
                policies=list(route_limits.policies),
            )
        self._log.info(names.LOG_ROUTES, limited=limited, unlimited=unlimited)
        if not limited and not self._match_in_mounted_apps:
            self._log.warning(
                names.LOG_NO_ROUTE_LIMITED,
                detail="no route of the app has a limit: write Depends(rate_limit(...)) on a "
                "route, or add RateLimitMiddleware and policies that match routes",
            )
        self.warn_of_unused(policies)
        self._reported = self._reportable()
        self._on_limited(self._limited_routes())

    async def report_changes(self) -> None:
        """Pass the routes to `on_limited` if the policies or the routes have changed."""
        current = self._reportable()
        if len(current) == len(self._reported) and all(map(is_, current, self._reported)):
            return
        # In a thread: many routes and policies take some 100 ms to compare.
        limited = await asyncio.to_thread(list, self._limited_routes())
        self._reported = current
        self._on_limited(limited)

    def _reportable(self) -> list[object]:
        policies = self._http_limiter.limiter.active_policies.current
        return [policies, *(table.routes for table in self._tables)]

    def _limited_routes(self) -> Iterator[tuple[str, Policy]]:
        policies = self._http_limiter.limiter.active_policies.current
        return chain.from_iterable(
            _limited_routes(
                table, policies, self._http_limiter, match_policies=self._match_policies
            )
            for table in self._tables
        )

    def add_routes(self, routes: RouteTable, *, match_policies: bool) -> None:
        """Add routes to those that policies are compared with, without a log line.

        Arguments and errors are those of `log_routes`.
        """
        policies = self._http_limiter.limiter.active_policies.current
        self._collect_policies(routes, policies)
        self._collect_unseen(routes, match_policies=match_policies)
        self._require_seen(policies)
        self._require_other_names(policies)
        self._require_possible_costs(policies)
        self._require_path_parameters(policies, [routes], match_policies=match_policies)
        # The lifespan of an app may run several times.
        if routes not in self._tables:
            self._tables.append(routes)
        self._match_policies |= match_policies

    def _collect_policies(self, routes: RouteTable, policies: PolicySet) -> None:
        for route in routes.routes:
            for dependency in checked_dependencies(route):
                policy = dependency.resolve_policy(self._http_limiter)
                if policies.get(policy.name) is policy:
                    found = self._dependency_by_policy.setdefault(policy.name, dependency)
                    if constant_cost(dependency) > constant_cost(found):
                        self._dependency_by_policy[policy.name] = dependency
                else:
                    same_name = self._inline_policies.setdefault(policy.name, policy)
                    require_same_policy(same_name, policy)

    def _collect_unseen(self, routes: RouteTable, *, match_policies: bool) -> None:
        """Collect the dependencies of routes without the middleware, which sees their responses."""
        mounted = _all_mounted_apps(
            routes.router.routes if isinstance(routes, AppRouteTable) else ()
        )
        in_mounted_apps = any(map(has_middleware, mounted))
        self._match_in_mounted_apps |= in_mounted_apps
        for route in routes.routes:
            seen = match_policies or (route.mounted_app is not None and in_mounted_apps)
            for dependency in checked_dependencies(route):
                policy = dependency.resolve_policy(self._http_limiter)
                require_readable_answer(dependency, policy, route.methods)
                if not seen:
                    self._unseen[policy.name] = dependency
                    require_seen_response(dependency, policy)

    def _require_seen(self, policies: PolicySet) -> None:
        for name, dependency in self._unseen.items():
            policy = policies.get(name)
            if policy is not None:
                require_seen_response(dependency, policy)

    def _require_other_names(self, policies: PolicySet) -> None:
        for policy in policies.policies:
            inline = self._inline_policies.get(policy.name)
            if inline is not None:
                require_same_policy(policy, inline)

    def _require_possible_costs(self, policies: PolicySet) -> None:
        for name, dependency in self._dependency_by_policy.items():
            policy = policies.get(name)
            if policy is not None:
                require_possible_cost(dependency, policy, policies.source)

    def _require_path_parameters(
        self, policies: PolicySet, tables: Iterable[RouteTable], *, match_policies: bool
    ) -> None:
        if not any(
            each.key_paths for each in (*policies.policies, *self._inline_policies.values())
        ):
            return
        for route in chain.from_iterable(table.routes for table in tables):
            found = _policies(
                route, _methods(route), policies, self._http_limiter, match_policies=match_policies
            )
            for policy in _limiting(found, route, self._http_limiter).values():
                require_path_parameters(policy, route)

    def find_unused(self, policies: PolicySet) -> Iterator[UnusedPolicy]:
        """Yield the policies of a set that apply to no request of the logged routes."""
        return find_unused_policies(
            policies,
            [route for table in self._tables for route in table.routes],
            named=self._dependency_by_policy.keys(),
            known_tiers=self._http_limiter.identifier.known_tiers,
            match_policies=self._match_policies or self._match_in_mounted_apps,
            exemption=self._http_limiter.limiter.exemption,
        )

    def warn_of_unused(self, policies: PolicySet) -> None:
        """Log a warning for each policy that applies to no request, admits none, or overcharges."""
        for unused in self.find_unused(policies):
            self._log.warning(names.LOG_POLICY_UNUSED, policy=unused.policy, detail=unused.detail)
        for name, dependency in self._dependency_by_policy.items():
            policy = policies.get(name)
            if policy is not None and (callers := callers_below_cost(dependency, policy)):
                self._log.warning(
                    names.LOG_COST_TOO_LARGE,
                    policy=name,
                    detail=f"{dependency!r} can never pass the limits of {', '.join(callers)}",
                )
        routes = [route for table in self._tables for route in table.routes]
        for name, detail in kept_estimates(policies, routes):
            self._log.warning(names.LOG_ESTIMATE_KEPT, policy=name, detail=detail)
        for name, detail in unused_prefetches(policies):
            self._log.warning(names.LOG_PREFETCH_UNUSED, policy=name, detail=detail)

    def require_named_policies(self, policies: PolicySet) -> None:
        """Check that a new set has every policy that a dependency names, and no limit's name.

        Raises:
            ConfigError: A policy is missing, has the name of a limit in code, can never admit the
                cost of a dependency, needs responses that no middleware sees, or is keyed on a
                path parameter that one of its routes does not have; requests to the routes would
                fail.
        """
        if missing := sorted(
            name for name in self._dependency_by_policy if policies.get(name) is None
        ):
            raise ConfigError(
                f"{policies.source}: routes depend on {', '.join(missing)}: keep these policies"
            )
        self._require_other_names(policies)
        self._require_possible_costs(policies)
        self._require_seen(policies)
        self._require_path_parameters(policies, self._tables, match_policies=self._match_policies)


def _all_mounted_apps(routes: Sequence[BaseRoute]) -> Iterator[Starlette]:
    for app in mounted_apps(routes):
        yield app
        yield from _all_mounted_apps(app.routes)
