"""Costs that a response corrects, compared with the routes whose responses can be seen."""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.core.usage import Usage
from fleetlimit.errors import ConfigError
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import WEBSOCKET, RateLimitDependency
from fleetlimit.web.settlement import ADD_MIDDLEWARE


def reads_usage(dependency: RateLimitDependency, policy: Policy) -> bool:
    """Return whether an answer states the cost of a dependency."""
    if dependency.cost is None:
        return policy.cost is not None
    return isinstance(dependency.cost, Usage)


def kept_estimates(policies: PolicySet, routes: Iterable[RouteInfo]) -> Iterator[tuple[str, str]]:
    """Yield each limit whose estimates mostly stay spent, and what to write instead.

    A token bucket gives back what has not refilled since. An estimate of 1,000 units that refill in
    6 s is spent in full by an answer that takes longer.

    Args:
        policies: The policies.
        routes: Routes of the app, whose limits in code are looked at, too.
    """
    found = {each.name: each for each in policies.policies if each.cost is not None}
    for route in routes:
        for dependency in route.active_rate_limits():
            policy = dependency.find_policy(policies)
            if policy is not None and reads_usage(dependency, policy):
                found[policy.name] = policy
    for name, policy in found.items():
        quotas = chain.from_iterable(policy.quota_sets())
        if policy.mode is not Mode.OFF and any(map(_is_token_bucket, quotas)):
            detail = (
                f"policy {name} spends estimates from a token bucket, which gives back only what "
                "has not refilled since: write the algorithm sliding_window, so that long answers "
                "cost what they state"
            )
            yield name, detail


def _is_token_bucket(quota: Quota) -> bool:
    return quota.algorithm is Algorithm.TOKEN_BUCKET


def require_seen_response(dependency: RateLimitDependency, policy: Policy) -> None:
    """Check that a dependency needs no response, for a route without the middleware.

    Args:
        dependency: Dependency of a route whose responses no middleware sees.
        policy: Policy of the dependency.

    Raises:
        ConfigError: The response corrects its cost.
    """
    if reads_usage(dependency, policy):
        raise ConfigError(
            f"{dependency!r} reads its cost from the answer, which a dependency does not see: "
            f"{ADD_MIDDLEWARE}"
        )
    if policy.count is not None:
        raise ConfigError(
            f"{dependency!r} counts by the status of the response, which a dependency does not "
            f"see: {ADD_MIDDLEWARE}"
        )


def require_readable_answer(
    dependency: RateLimitDependency, policy: Policy, methods: Collection[str]
) -> None:
    """Check that a route has an answer, if it states the cost of a dependency.

    Args:
        dependency: Dependency of a route.
        policy: Policy of the dependency.
        methods: Methods of the route.

    Raises:
        ConfigError: The route is a WebSocket, or the policy has leases, which no answer corrects.
    """
    if not reads_usage(dependency, policy):
        return
    if WEBSOCKET in methods:
        raise ConfigError(
            f"{dependency!r} reads its cost from the answer, and a WebSocket has none: write a "
            "cost, or check each message with the tokens that it took"
        )
    if policy.has_leases:
        raise ConfigError(
            f"{dependency!r} reads its cost from the answer, and policy {policy.name} has a "
            "concurrency limit: write that limit into a policy of its own"
        )
