"""Constant costs of dependencies, compared with the most that a policy's limits can ever admit."""

from fleetlimit.core.policy import Mode, Policy
from fleetlimit.errors import ConfigError
from fleetlimit.web.route_policies import RateLimitDependency


def constant_cost(dependency: RateLimitDependency) -> int:
    """Return the cost of a dependency; 0 where a function computes it or an answer states it."""
    cost = 1 if dependency.cost is None else dependency.cost
    return cost if isinstance(cost, int) else 0


def require_possible_cost(dependency: RateLimitDependency, policy: Policy, source: str) -> None:
    """Check that the callers of some tier can pass a policy with the cost of a dependency.

    Args:
        dependency: Dependency of a route.
        policy: Policy that it names.
        source: Where the policy is written, for the error.

    Raises:
        ConfigError: No caller can, so that each request to the route would be rejected with 413.
    """
    largest = max(_largest_costs(policy).values())
    enforces = policy.mode is Mode.ENFORCE and policy.enforce_percent > 0
    if enforces and constant_cost(dependency) > largest:
        raise ConfigError(
            f"{dependency!r} can never pass policy {policy.name} in {source}: write a cost from 0 "
            f"to {largest}, or a larger burst"
        )


def callers_below_cost(dependency: RateLimitDependency, policy: Policy) -> list[str]:
    """Return the callers whose limits can never admit the cost of a dependency, for people."""
    if policy.mode is Mode.OFF:
        return []
    cost = constant_cost(dependency)
    return [
        f"tier {tier}" if tier else "callers without a tier"
        for tier, largest in _largest_costs(policy).items()
        if cost > largest
    ]


def _largest_costs(policy: Policy) -> dict[str, int]:
    """Return the largest cost that a full bucket admits, by tier; empty for all other callers."""
    return {
        tier: min(quota.burst // quota.cost for quota in policy.quotas_for(tier))
        for tier in ("", *policy.tiers)
    }
