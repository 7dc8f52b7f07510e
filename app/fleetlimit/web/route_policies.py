"""What a request asks for at a route: policies, each at a cost."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPMethod
from typing import Final, NamedTuple, Protocol, runtime_checkable

from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.web.http_limiter import HTTPLimiter

WEBSOCKET: Final = "WEBSOCKET"
"""Stands for a method where there is none."""
UNASKED: Final = ""
"""Stands for the method where the policies that match the request are not asked for."""
_METHODS: Final = frozenset({UNASKED, WEBSOCKET, *HTTPMethod})
MAX_CACHED: Final = 64

CostFunction = Callable[[HTTPConnection], int | Awaitable[int]]
"""Tells what a request costs."""
Cost = int | CostFunction
"""What a request costs, or what tells it."""


@runtime_checkable
class RateLimitDependency(Protocol):
    """What asks for a policy at a cost: a dependency of the route."""

    @property
    def cost(self) -> Cost:
        """What a request costs under the policy."""
        ...

    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:
        """Return the policy that is asked for."""
        ...


class ApplicablePolicies(NamedTuple):
    """What a request asks for.

    Args:
        policy_set: The set in force when this was found.
        dependencies: The dependencies that ask.
        policy_costs: Each policy with its cost.
        cost_functions: Where a function tells the cost of a request.
        names: Names of the policies.
        key_headers: Lower-case names of the request headers that their keys are made of.
    """

    policy_set: PolicySet
    dependencies: Sequence[RateLimitDependency]
    policy_costs: list[tuple[Policy, int]]
    cost_functions: list[tuple[int, CostFunction]]
    names: tuple[str, ...]
    key_headers: frozenset[str]

    async def resolve_costs(self, scope: Scope) -> list[tuple[Policy, int]]:
        """Return each policy with the cost that this request has under it."""
        policy_costs = [*self.policy_costs]
        for index, cost_function in self.cost_functions:
            cost = cost_function(HTTPConnection(scope))
            policy_costs[index] = (
                policy_costs[index][0],
                await cost if inspect.isawaitable(cost) else cost,
            )
        return policy_costs


class PolicyCache:
    """What is asked for at one route, found once for all requests that ask for the same."""

    def __init__(self) -> None:
        self._cache: dict[tuple[str, str], ApplicablePolicies] = {}

    def get(
        self,
        http_limiter: HTTPLimiter,
        dependencies: Sequence[RateLimitDependency],
        method: str,
        template: str,
        tier: str,
    ) -> ApplicablePolicies:
        """Return what a request asks for.

        Args:
            http_limiter: Has the policies.
            dependencies: Dependencies that ask for policies.
            method: The method, `WEBSOCKET` or `UNASKED`.
            template: The route's full template.
            tier: The caller's tier.

        Raises:
            ConfigError: A dependency names a policy that there is not.
        """
        policy_set = http_limiter.limiter.active_policies.current
        applicable = self._cache.get((method, tier))
        if (
            applicable is not None
            and applicable.policy_set is policy_set
            and applicable.dependencies is dependencies
        ):
            return applicable
        matching = policy_set.select(method, template or UNMATCHED_ROUTE, tier) if method else ()
        applicable = _find_applicable(http_limiter, policy_set, dependencies, matching)
        # Some servers take any word for a method: what is kept must not grow with clients' words.
        if method in _METHODS:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[method, tier] = applicable
        return applicable


def _find_applicable(
    http_limiter: HTTPLimiter,
    policy_set: PolicySet,
    dependencies: Sequence[RateLimitDependency],
    matching: Iterable[Policy],
) -> ApplicablePolicies:
    costs: dict[str, tuple[Policy, Cost]] = {policy.name: (policy, 1) for policy in matching}
    for dependency in dependencies:
        policy = dependency.resolve_policy(http_limiter)
        costs[policy.name] = policy, dependency.cost
    policy_costs = [*costs.values()]
    return ApplicablePolicies(
        policy_set,
        dependencies,
        [(policy, cost if isinstance(cost, int) else 0) for policy, cost in policy_costs],
        [(at, cost) for at, (_, cost) in enumerate(policy_costs) if not isinstance(cost, int)],
        tuple(costs),
        frozenset().union(*(policy.key_headers for policy, _ in policy_costs)),
    )
