"""What a request asks for at a route: policies, each at a cost."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPMethod
from typing import Final, NamedTuple, Protocol, runtime_checkable

from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.web.http_limiter import Gate

WEBSOCKET: Final = "WEBSOCKET"
"""Stands for a method where there is none."""
UNASKED: Final = ""
"""Stands for the method where the policies that match the request are not asked for."""
_METHODS: Final = frozenset({UNASKED, WEBSOCKET, *HTTPMethod})
MAX_KEPT: Final = 64

Telling = Callable[[HTTPConnection], int | Awaitable[int]]
"""Tells what a request costs."""
Cost = int | Telling
"""What a request costs, or what tells it."""


@runtime_checkable
class Ask(Protocol):
    """What asks for a policy at a cost: a dependency of the route."""

    @property
    def cost(self) -> Cost:
        """What a request costs under the policy."""
        ...

    def policy(self, gate: Gate) -> Policy:
        """Return the policy that is asked for."""
        ...


class Wanted(NamedTuple):
    """What a request asks for.

    Args:
        policies: The set in force when this was found.
        asks: The dependencies that ask.
        pairs: Each policy with its cost.
        told: Where a function tells the cost of a request.
        names: Names of the policies.
        headers: Lower-case names of the request headers that their keys are made of.
    """

    policies: PolicySet
    asks: Sequence[Ask]
    pairs: list[tuple[Policy, int]]
    told: list[tuple[int, Telling]]
    names: tuple[str, ...]
    headers: frozenset[str]

    async def priced(self, scope: Scope) -> list[tuple[Policy, int]]:
        """Return each policy with the cost that this request has under it."""
        pairs = [*self.pairs]
        for place, tell in self.told:
            cost = tell(HTTPConnection(scope))
            pairs[place] = pairs[place][0], await cost if inspect.isawaitable(cost) else cost
        return pairs


class Wants:
    """What is asked for at one route, found once for all requests that ask for the same."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Wanted] = {}

    def find(
        self, gate: Gate, asks: Sequence[Ask], method: str, template: str, tier: str
    ) -> Wanted:
        """Return what a request asks for.

        Args:
            gate: Has the policies.
            asks: Dependencies that ask for policies.
            method: The method, `WEBSOCKET` or `UNASKED`.
            template: The route's full template.
            tier: The caller's tier.

        Raises:
            ConfigError: A dependency names a policy that there is not.
        """
        policies = gate.limiter.policies.current
        found = self._kept.get((method, tier))
        if found is not None and found.policies is policies and found.asks is asks:
            return found
        matching = policies.select(method, template or UNMATCHED_ROUTE, tier) if method else ()
        found = _wanted(gate, policies, asks, matching)
        # Some servers take any word for a method: what is kept must not grow with clients' words.
        if method in _METHODS:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[method, tier] = found
        return found


def _wanted(
    gate: Gate, policies: PolicySet, asks: Sequence[Ask], matching: Iterable[Policy]
) -> Wanted:
    costs: dict[str, tuple[Policy, Cost]] = {policy.name: (policy, 1) for policy in matching}
    for ask in asks:
        policy = ask.policy(gate)
        costs[policy.name] = policy, ask.cost
    found = [*costs.values()]
    return Wanted(
        policies,
        asks,
        [(policy, cost if isinstance(cost, int) else 0) for policy, cost in found],
        [(at, cost) for at, (_, cost) in enumerate(found) if not isinstance(cost, int)],
        tuple(costs),
        frozenset().union(*(policy.headers for policy, _ in found)),
    )
