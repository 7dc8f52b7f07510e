"""Costs of a check under its policies, as the caller of the limiter gives them."""

from collections.abc import Iterable, Mapping, Sequence

from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import check_cost
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.plan import PolicyCost

CheckCost = int | Mapping[str, int] | None
"""Cost of a check, or the cost under each policy by its name; None for 1."""


class SingleCosts:
    """Costs of `Limiter.check` of one policy by its name: the same list for all checks.

    Plans are cached by the costs that they were made from, and find the same list faster than an
    equal one.

    Args:
        active_policies: Policies that a name stands for.
    """

    def __init__(self, active_policies: ActivePolicies) -> None:
        self._active_policies = active_policies
        self._found: dict[str, list[PolicyCost]] = {}
        active_policies.subscribe(self._found.clear)

    def of(self, name: str) -> list[PolicyCost]:
        """Return the cost of 1 under an active policy.

        Errors are those of `resolve_policy_costs` and `require_checkable`.
        """
        found = self._found.get(name)
        if found is None:
            found = resolve_policy_costs(self._active_policies, (name,), None)
            require_checkable(found)
            self._found[name] = found
        return found


def resolve_policy_costs(
    active_policies: ActivePolicies, policies: Sequence[str | Policy], cost: CheckCost
) -> list[PolicyCost]:
    """Return each policy of a check with its cost.

    Args:
        active_policies: Policies that a name stands for.
        policies: Policies, or names of active policies; by default those that `cost` names.
        cost: Cost under every policy, or under each by its name.

    Raises:
        ConfigError: There is no policy of that name; or the names in `cost` are not those of
            `policies`; or an answer states the cost under a policy, and no estimate is given.
        CostError: A cost is negative, or no whole number.
    """
    costs = dict(cost) if isinstance(cost, Mapping) else None
    if costs is not None and not policies:
        policies = [*costs]
        if not policies:
            raise ConfigError("cost names no policy: write cost={'requests': 1, ...}")
    found = [_require_policy(active_policies, each) for each in policies]
    if costs is not None:
        _require_each_cost(costs, [each.name for each in found])
    policy_costs = []
    for policy in found:
        each = costs[policy.name] if costs is not None else cost
        if each is None and costs is None:
            _require_fixed_cost(policy)
            each = 1
        # Here, because compiled code would raise a `TypeError` for a cost that is no integer.
        policy_costs.append(PolicyCost(policy, check_cost(each)))
    return policy_costs


def require_checkable(costs: Iterable[PolicyCost]) -> None:
    """Check that `Limiter.check` can spend under policies, whose costs it never corrects.

    Raises:
        ConfigError: A policy has a `concurrency` limit, or `count`.
    """
    for each in costs:
        if each.policy.has_leases:
            raise ConfigError(
                f"policy {each.policy.name} has a concurrency limit, whose units `check` "
                "cannot release: write `async with await limiter.reserve(...)`"
            )
        if each.policy.count is not None:
            raise ConfigError(
                f"policy {each.policy.name} counts by the status of the response, which "
                "`check` does not see: write `reservation = await limiter.reserve(...)`, and "
                "`await reservation.refund()` after a request that does not count"
            )


def _require_fixed_cost(policy: Policy) -> None:
    """Check that a check under a policy has a cost of 1 where none is given.

    Raises:
        ConfigError: An answer states it.
    """
    if policy.cost is not None:
        raise ConfigError(
            f"the cost under policy {policy.name} stands in the answer of a model: reserve an "
            "estimate with cost=..., and commit the tokens that the answer states"
        )


def _require_policy(active_policies: ActivePolicies, policy: str | Policy) -> Policy:
    if isinstance(policy, str):
        return active_policies.require(policy)
    if isinstance(policy, Mapping):
        raise ConfigError("costs by policy are an argument of their own: write cost={...}")
    return policy


def _require_each_cost(costs: Mapping[str, int], names: Sequence[str]) -> None:
    """Check that a mapping has the cost under each policy, and under no other.

    Raises:
        ConfigError: It has not.
    """
    for name in names:
        if name not in costs:
            raise ConfigError(f"cost has no entry for policy {name}: add {name!r}: 1")
    for name in costs:
        if name not in names:
            raise ConfigError(
                f"cost has policy {name!r}, which is not checked: write one of {', '.join(names)}, "
                "or leave out the names before cost={...}"
            )
