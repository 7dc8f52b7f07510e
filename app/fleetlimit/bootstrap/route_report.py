"""Report of the policies of each route: logged at start, and listed on the admin port.

An app has many routes, and most of them are unlimited on purpose. The log has a summary, and a
warning only for a limit that has no effect; the routes themselves are at level DEBUG.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette

from fleetlimit.bootstrap.constant_costs import (
    callers_below_cost,
    constant_cost,
    require_possible_cost,
)
from fleetlimit.bootstrap.unused_policies import UnusedPolicy, find_unused_policies
from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.errors import ConfigError
from fleetlimit.telemetry import names
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.middleware import WRAPPED_KEY, RateLimitMiddleware
from fleetlimit.web.route_policies import RateLimitDependency, require_same_policy
from fleetlimit.web.route_table import RouteInfo, RouteTable
from fleetlimit.web.wiring import has_own_limiter

ANY_METHOD = "ANY"


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """A route and the policies that apply to it.

    Args:
        method: One of the route's methods, or ANY.
        template: Path template of the route.
        policies: Names of the policies; those of the route's dependencies come last.
    """

    method: str
    template: str
    policies: tuple[str, ...]


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
        for method in sorted(route.methods - {"HEAD"}) or [ANY_METHOD]:
            found = policies.for_route(method, route.template) if match_policies else ()
            every = [*found, *_dependency_policies(route, http_limiter)]
            policy_names = dict.fromkeys(policy.name for policy in every)
            yield RouteLimits(method, route.template, tuple(policy_names))
    if match_policies:
        found = policies.for_route(ANY_METHOD, UNMATCHED_ROUTE)
        yield RouteLimits(ANY_METHOD, UNMATCHED_ROUTE, tuple(policy.name for policy in found))


def checked_dependencies(route: RouteInfo) -> tuple[RateLimitDependency, ...]:
    """Return the route's limits, or none if a mounted app checks them with its own limiter."""
    if route.mounted_app is not None and has_own_limiter(route.mounted_app):
        return ()
    return route.active_rate_limits()


def _dependency_policies(route: RouteInfo, http_limiter: HTTPLimiter) -> list[Policy]:
    return [each.resolve_policy(http_limiter) for each in checked_dependencies(route)]


class RouteReporter:
    """Logs the policies of each route at start and unused policies, and rejects bad reloads.

    Args:
        log: Structured logger.
        http_limiter: Limiter that resolves the dependencies of the routes.
    """

    def __init__(self, log: Any, http_limiter: HTTPLimiter) -> None:
        self._log = log
        self._http_limiter = http_limiter
        # The dependency with the largest constant cost under each policy, if one has such a cost.
        self._dependency_by_policy: dict[str, RateLimitDependency] = {}
        self._inline_policies: dict[str, Policy] = {}
        self._tables: list[RouteTable] = []
        self._match_policies = False

    def log_routes(self, routes: RouteTable, *, match_policies: bool) -> None:
        """Log the routes of an app, and warn if no route is limited or a policy applies to none.

        Args:
            routes: Routes of the app.
            match_policies: Whether the app has the middleware, which applies policies by their
                match.

        Raises:
            ConfigError: A dependency names a policy that does not exist, or has a cost that it can
                never admit; or two different limits have one name.
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
        if not limited:
            self._log.warning(
                names.LOG_NO_ROUTE_LIMITED,
                detail="no route of the app has a limit: write Depends(rate_limit(...)) on a "
                "route, or add RateLimitMiddleware and policies that match routes",
            )
        self.warn_of_unused(policies)

    def add_routes(self, routes: RouteTable, *, match_policies: bool) -> None:
        """Add routes to those that policies are compared with, without a log line.

        Arguments and errors are those of `log_routes`.
        """
        policies = self._http_limiter.limiter.active_policies.current
        self._collect_policies(routes, policies)
        self._require_other_names(policies)
        self._require_possible_costs(policies)
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

    def find_unused(self, policies: PolicySet) -> Iterator[UnusedPolicy]:
        """Yield the policies of a set that apply to no request of the logged routes."""
        return find_unused_policies(
            policies,
            [route for table in self._tables for route in table.routes],
            named=self._dependency_by_policy.keys(),
            known_tiers=self._http_limiter.identifier.known_tiers,
            match_policies=self._match_policies,
        )

    def warn_of_unused(self, policies: PolicySet) -> None:
        """Log a warning for each policy of a set that applies to no request, or admits none."""
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

    def require_named_policies(self, policies: PolicySet) -> None:
        """Check that a new set has every policy that a dependency names, and no limit's name.

        Raises:
            ConfigError: A policy is missing, has the name of a limit in code, or can never admit
                the cost of a dependency; requests to the routes would fail.
        """
        if missing := sorted(
            name for name in self._dependency_by_policy if policies.get(name) is None
        ):
            raise ConfigError(
                f"{policies.source}: routes depend on {', '.join(missing)}: keep these policies"
            )
        self._require_other_names(policies)
        self._require_possible_costs(policies)


def has_middleware(app: Starlette) -> bool:
    """Return whether an app has the middleware, which applies policies by their match."""
    classes: list[Any] = [each.cls for each in app.user_middleware]
    return hasattr(app, WRAPPED_KEY) or any(
        isinstance(each, type) and issubclass(each, RateLimitMiddleware) for each in classes
    )


def policy_to_dict(policy: Policy, tier: str = "") -> dict[str, Any]:
    """Return a policy as JSON, with the limits of a tier."""
    return {
        "name": policy.name,
        "key": [part.kind + (f":{part.name}" if part.name else "") for part in policy.key],
        "mode": policy.mode,
        "enforce_percent": policy.enforce_percent,
        "on_store_error": policy.on_store_error,
        "prefetch": policy.prefetch,
        "limits": [limit_to_dict(quota) for quota in policy.quotas_for(tier)],
    }


def limit_to_dict(quota: Quota) -> dict[str, Any]:
    """Return a limit as JSON."""
    if quota.algorithm is Algorithm.CONCURRENCY:
        return {"name": quota.name, "concurrency": quota.limit, "cost": quota.cost}
    return {
        "name": quota.name,
        "algorithm": quota.algorithm,
        "limit": quota.limit,
        "seconds": quota.period_us / SECOND_US,
        "burst": quota.burst,
        "cost": quota.cost,
    }
