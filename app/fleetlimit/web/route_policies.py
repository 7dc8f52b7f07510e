"""The policies that apply to a request at a route, with the cost of each."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPMethod
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import check_cost
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import await_result
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.web.http_limiter import HTTPLimiter

WEBSOCKET: Final = "WEBSOCKET"
"""Stands for the HTTP method of a WebSocket handshake, in policies too."""
METHODS: Final = frozenset({WEBSOCKET, *HTTPMethod})
"""Methods that policies and explanations know."""
MAX_CACHED: Final = 64
"""Largest number of entries for each route: methods times tiers."""

CostFunction = Callable[[HTTPConnection], int | Awaitable[int]]
"""A function that returns the cost of a request."""
Cost = int | CostFunction
"""A fixed cost, or a function that computes it."""


class RateLimitDependency(ABC):
    """Dependency of a FastAPI route that requests units of one policy."""

    cost: Cost
    """Cost of a request under the policy."""

    @abstractmethod
    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:
        """Return the policy.

        Raises:
            ConfigError: The limiter has no policy of that name.
        """

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Admit the request; FastAPI calls it as a coroutine function or an async generator."""


@dataclass(frozen=True, slots=True)
class ApplicablePolicies:
    """The policies that apply to a request.

    Args:
        policy_set: Policy set that was active when they were selected.
        dependencies: Dependencies of the route that request units of a policy.
        policy_costs: Each policy with its cost; 0 where a function computes it.
        cost_functions: Function of each cost that is computed, by its index in `policy_costs`.
        names: Names of the policies.
        key_headers: Lower-case names of the request headers that are part of a key.
    """

    policy_set: PolicySet
    dependencies: Sequence[RateLimitDependency]
    policy_costs: list[PolicyCost]
    cost_functions: dict[int, CostFunction]
    names: tuple[str, ...]
    key_headers: frozenset[str]

    async def resolve_costs(self, scope: Scope, timeout_s: float) -> list[PolicyCost]:
        """Return each policy with the cost of this request.

        Args:
            scope: ASGI scope of the request.
            timeout_s: Seconds that an async function may take.

        Raises:
            CostError: A function returned a negative number, or no whole number.
            TimeoutError: A function did not return in time.
        """
        policy_costs = [*self.policy_costs]
        for index, cost_function in self.cost_functions.items():
            returned = cost_function(HTTPConnection(scope))
            if inspect.isawaitable(returned):
                returned = await await_result(returned, "cost function", timeout_s)
            cost = check_cost(returned)
            policy_costs[index] = PolicyCost(policy_costs[index].policy, cost)
        return policy_costs


class PolicyCache:
    """Cache of the applicable policies of one route, by method and tier."""

    def __init__(self) -> None:
        self._cache: BoundedCache[tuple[str | None, str], ApplicablePolicies] = BoundedCache(
            MAX_CACHED
        )

    def get(
        self,
        http_limiter: HTTPLimiter,
        dependencies: Sequence[RateLimitDependency],
        method: str | None,
        template: str,
        tier: str,
    ) -> ApplicablePolicies:
        """Return the policies that apply to a request.

        Arguments and errors are those of `select_policies`.
        """
        policy_set = http_limiter.limiter.active_policies.current
        key = (method, tier)
        cached = self._cache.get(key)
        if (
            cached is not None
            and cached.policy_set is policy_set
            and cached.dependencies is dependencies
        ):
            return cached
        applicable = select_policies(http_limiter, dependencies, method, template, tier)
        # Some servers accept any word as a method; invented ones must not evict other entries.
        if method is None or method in METHODS:
            self._cache.put(key, applicable)
        return applicable


def select_policies(
    http_limiter: HTTPLimiter,
    dependencies: Sequence[RateLimitDependency],
    method: str | None,
    template: str,
    tier: str,
) -> ApplicablePolicies:
    """Select the policies that apply to a request, those of the dependencies last.

    Args:
        http_limiter: Limiter of the request, which has the active policy set.
        dependencies: Dependencies whose policies apply.
        method: HTTP method or `WEBSOCKET`, for the policies whose match includes the request; None
            for the policies of the dependencies only.
        template: The route's full template; empty where no route matched.
        tier: The caller's tier.

    Raises:
        ConfigError: A dependency names a policy that does not exist, or two different policies have
            one name.
    """
    policy_set = http_limiter.limiter.active_policies.current
    policies: dict[str, Policy] = {}
    if method is not None:
        matching = policy_set.select(method, template or UNMATCHED_ROUTE, tier)
        policies = {policy.name: policy for policy in matching}
    costs: dict[str, Cost] = dict.fromkeys(policies, 1)
    for dependency in dependencies:
        policy = dependency.resolve_policy(http_limiter)
        require_same_policy(policies.setdefault(policy.name, policy), policy)
        costs[policy.name] = dependency.cost
    return ApplicablePolicies(
        policy_set,
        dependencies,
        [
            PolicyCost(policy, cost if isinstance(cost, int) else 0)
            for policy, cost in zip(policies.values(), costs.values(), strict=True)
        ],
        {index: cost for index, cost in enumerate(costs.values()) if not isinstance(cost, int)},
        tuple(policies),
        frozenset().union(*(policy.key_headers for policy in policies.values())),
    )


def require_same_policy(first: Policy, second: Policy) -> None:
    """Check that two policies of one name are equal: one of them would replace the other.

    Raises:
        ConfigError: They differ.
    """
    if first != second:
        raise ConfigError(
            f"two different limits are named {first.name!r}: give one of them another name; "
            f"they are {first} and {second}"
        )
