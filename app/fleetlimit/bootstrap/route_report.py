"""Which policies hold which route: told at start, and for one request on demand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.errors import ConfigError
from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.http_limiter import Gate
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.route_table import Entry, RouteTable

ANY_METHOD = "ANY"


@dataclass(frozen=True, slots=True)
class Held:
    """One route and what holds it.

    Args:
        method: One of the route's methods.
        template: The route's template.
        policies: Names of the policies, those of the route's own dependencies last.
    """

    method: str
    template: str
    policies: tuple[str, ...]


def coverage(
    routes: RouteTable, policies: PolicySet, gate: Gate, *, matched: bool = True
) -> Iterator[Held]:
    """Yield each route with the policies that hold it, and last what no route matches.

    Args:
        routes: The app's routes.
        policies: The policies in force.
        gate: What the routes' own limits are resolved by.
        matched: Whether the middleware is there, which enforces policies by their match.
    """
    for entry in routes.entries:
        for method in sorted(entry.methods - {"HEAD"}) or [ANY_METHOD]:
            found = policies.for_route(method, entry.template) if matched else ()
            names = [*(policy.name for policy in found), *own_limits(entry, gate)]
            yield Held(method, entry.template, tuple(dict.fromkeys(names)))
    if matched:
        found = policies.for_route(ANY_METHOD, UNMATCHED_ROUTE)
        yield Held(ANY_METHOD, UNMATCHED_ROUTE, tuple(policy.name for policy in found))


def own_limits(entry: Entry, gate: Gate) -> dict[str, Policy]:
    """Return the policies that the route's dependencies ask for, by name.

    Raises:
        ConfigError: A dependency names a policy that is not there.
    """
    found = [call.policy(gate) for call in entry.calls if isinstance(call, RateLimit)]
    return {policy.name: policy for policy in found}


class Coverage:
    """Tells at start what holds each route, and keeps reloads from taking that away.

    Args:
        log: Where to tell.
        gate: What the routes' own limits are resolved by.
    """

    def __init__(self, log: Any, gate: Gate) -> None:
        self._log = log
        self._gate = gate
        self._named: set[str] = set()

    def tell(self, routes: RouteTable, *, matched: bool) -> None:
        """Log each route with its policies, and warn of those that nothing holds.

        Args:
            routes: The routes.
            matched: Whether the middleware is there, which enforces policies by their match.

        Raises:
            ConfigError: A dependency names a policy that is not there.
        """
        policies = self._gate.limiter.policies.current
        for held in coverage(routes, policies, self._gate, matched=matched):
            tell = self._log.info if held.policies else self._log.warning
            tell(
                "coverage.route" if held.policies else "coverage.unlimited",
                method=held.method,
                route=held.template,
                policies=list(held.policies),
            )
        for entry in routes.entries:
            own = own_limits(entry, self._gate)
            self._named |= {name for name, each in own.items() if policies.get(name) is each}

    def check(self, policies: PolicySet) -> None:
        """See that a new set has every policy that a dependency names.

        Raises:
            ConfigError: It has not; requests to that route would fail.
        """
        if gone := sorted(name for name in self._named if policies.get(name) is None):
            raise ConfigError(
                f"{policies.source}: routes depend on {', '.join(gone)}: keep these policies"
            )


def has_middleware(app: Starlette) -> bool:
    """Tell whether the policies' matches are enforced on an app."""
    classes: list[object] = [each.cls for each in app.user_middleware]
    return RateLimitMiddleware in classes


def with_mounted(app: Starlette) -> list[Starlette]:
    """Return an app and the apps mounted in it."""
    found = [app]
    for route in app.routes:
        if isinstance(route, Mount) and isinstance(route.app, Starlette):
            found += with_mounted(route.app)
    return found


def describe(policy: Policy, tier: str = "") -> dict[str, Any]:
    """Return a policy as JSON, for people who ask which one is in force."""
    return {
        "name": policy.name,
        "key": [part.kind + (f":{part.name}" if part.name else "") for part in policy.key],
        "mode": policy.mode,
        "enforce_percent": policy.enforce_percent,
        "on_store_error": policy.on_store_error,
        "lease": policy.lease,
        "limits": [describe_quota(quota) for quota in policy.quotas(tier)],
    }


def describe_quota(quota: Quota) -> dict[str, Any]:
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
