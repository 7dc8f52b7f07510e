"""Which policies hold which route: told at start, and for one request on demand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette

from headgate.core.policy import Policy, PolicySet
from headgate.core.quota import SECOND_US, Algorithm, Quota
from headgate.web.dependency import RateLimit
from headgate.web.gate import Gate
from headgate.web.middleware import RateLimitMiddleware
from headgate.web.routes import Entry, RouteTable, scan

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
    """Yield each route with the policies that hold it.

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


def own_limits(entry: Entry, gate: Gate) -> dict[str, Policy]:
    """Return the policies that the route's dependencies ask for, by name.

    Raises:
        ConfigError: A dependency names a policy that is not there.
    """
    found = [call.policy(gate) for call in entry.calls if isinstance(call, RateLimit)]
    return {policy.name: policy for policy in found}


def log_coverage(log: Any, app: Starlette, policies: PolicySet, gate: Gate) -> None:
    """Log each route with its policies, and warn of those that nothing holds.

    Raises:
        ConfigError: A dependency names a policy that is not there.
    """
    matched = has_middleware(app)
    for held in coverage(RouteTable(scan(app.routes)), policies, gate, matched=matched):
        tell = log.info if held.policies else log.warning
        tell(
            "coverage.route" if held.policies else "coverage.unlimited",
            method=held.method,
            route=held.template,
            policies=list(held.policies),
        )


def has_middleware(app: Starlette) -> bool:
    """Tell whether the policies' matches are enforced on an app."""
    classes: list[object] = [each.cls for each in app.user_middleware]
    return RateLimitMiddleware in classes


def describe(policy: Policy, tier: str = "") -> dict[str, Any]:
    """Return a policy as JSON, for people who ask which one is in force."""
    return {
        "name": policy.name,
        "key": [part.kind + (f":{part.name}" if part.name else "") for part in policy.key],
        "mode": policy.mode,
        "enforce_percent": policy.enforce_percent,
        "on_store_error": policy.on_store_error,
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
