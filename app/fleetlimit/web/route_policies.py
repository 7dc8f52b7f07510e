"""The policies that apply to a request at a route, with the cost of each."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPMethod
from typing import Any, Final, NoReturn, Self, cast

from starlette.types import Scope

from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet, naming_route
from fleetlimit.core.quota import check_cost
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.core.usage import Usage
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import call_function
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.web.exemptions import Exemptions, require_exempt_function
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.limit_functions import LimitFunctions, require_limits_function
from fleetlimit.web.request_values import KeySources, get_connection, require_key_functions
from fleetlimit.web.settlement import SettledCost

WEBSOCKET: Final = "WEBSOCKET"
"""Stands for the HTTP method of a WebSocket handshake, in policies too."""
METHODS: Final = frozenset({WEBSOCKET, *HTTPMethod})
"""Methods that policies and explanations know."""

CostFunction = Callable[[Any], int | Awaitable[int]]
"""A function of the connection that returns the cost of a request. It receives a `Request`, or the
`HTTPConnection` of a WebSocket; typed as `Any`, so that either may be written."""
Cost = int | CostFunction | Usage
"""A fixed cost, a function that computes it, or the format of the answer that states it."""


class NotFromRequest:
    """Annotation of an argument that FastAPI must not read from the query.

    `Depends(RateLimit)` would let each client choose its limit.

    Args:
        kind: Name of the class or function that has the argument.
        arguments: Arguments of a valid call.
    """

    def __init__(self, kind: str, arguments: str) -> None:
        self._message = (
            f"Depends({kind}) has no limit: write Depends({kind}({arguments})) with its arguments"
        )

    def __get_pydantic_core_schema__(self, *_: object) -> NoReturn:
        raise ConfigError(self._message)


def _is_asgi_app(value: object) -> bool:
    """Return whether this is a callable with the three arguments of an ASGI app."""
    try:
        names = [*inspect.signature(cast("Any", value)).parameters]
    except (TypeError, ValueError):
        return False
    return names == ["scope", "receive", "send"]


class _NotADependencyError(ConfigError, AttributeError):
    """A limit stands where FastAPI wants `Depends`; for other readers, it has no such attribute."""


class _Dependency:
    """Attribute that FastAPI reads of each item of `dependencies=[...]`: an error with the fix."""

    def __get__(self, limit: object, kind: type) -> Any:
        text = repr(limit) if limit is not None else f"{kind.__name__}(...)"
        raise _NotADependencyError(
            f"dependencies=[{text if limit is not None else kind.__name__}] is not wrapped: write "
            f"dependencies=[Depends({text})]"
        )


class RateLimitDependency(ABC):
    """Dependency of a FastAPI route that requests units of one policy."""

    dependency = _Dependency()
    cost: Cost | None
    """Cost of a request under the policy; None for that of the policy, by default 1."""
    openapi: bool = True
    """Whether the OpenAPI schema states the limit."""

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """Refuse what Starlette calls a middleware with: an ASGI app, and then the arguments."""
        if args and _is_asgi_app(args[0]):
            raise ConfigError(
                f"{cls.__name__} is no middleware: write "
                f"@app.get(..., dependencies=[Depends({cls.__name__}(...))])"
            )
        return super().__new__(cls)

    def __get_pydantic_core_schema__(self, *_: object) -> NoReturn:
        # Of an object in an annotation, or of the class as one.
        text = f"{self.__name__}(...)" if isinstance(self, type) else repr(self)
        raise ConfigError(
            f"a parameter's annotation has {text}, which limits nothing: write "
            f"Annotated[Reservation, Depends({text})]"
        )

    @abstractmethod
    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:
        """Return the policy.

        Raises:
            ConfigError: The limiter has no policy of that name.
        """

    @abstractmethod
    def find_policy(self, policies: PolicySet) -> Policy | None:
        """Return the policy, for documentation; None if these policies do not have it."""

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
        key_sources: What keys are made from besides headers and the identity; None without.
        exemptions: What exempts requests from the policies; None without.
        limit_functions: Functions that return the limits of the caller; None without.
        settled: Costs that the response corrects; empty for most requests.
    """

    policy_set: PolicySet
    dependencies: Sequence[RateLimitDependency]
    policy_costs: list[PolicyCost]
    cost_functions: dict[int, CostFunction]
    names: tuple[str, ...]
    key_headers: frozenset[str]
    key_sources: KeySources | None
    exemptions: Exemptions | None
    limit_functions: LimitFunctions | None
    settled: tuple[SettledCost, ...] = ()
    needs_request: bool = field(init=False)
    """Whether exemptions, keys or limits depend on more than the caller and the route."""

    def __post_init__(self) -> None:
        sources = (self.exemptions, self.key_sources, self.limit_functions)
        needs_request = any(each is not None for each in sources)
        object.__setattr__(self, "needs_request", needs_request)

    def key_sources_of(self, policy_costs: Sequence[PolicyCost]) -> KeySources | None:
        """Return what the keys of the policies are made from that limit a request.

        Args:
            policy_costs: The policies, with marks of those that do not limit the request.
        """
        if policy_costs is self.policy_costs:
            return self.key_sources
        return KeySources.of(each.policy for each in policy_costs if not each.exempt)

    async def resolve_costs(
        self, policy_costs: Sequence[PolicyCost], scope: Scope, timeout_s: float
    ) -> list[PolicyCost]:
        """Return each policy with the cost of this request; each function is called once.

        Args:
            policy_costs: The policies; no cost is computed for those that do not limit the request.
            scope: ASGI scope of the request.
            timeout_s: Seconds that an async function may take.

        Raises:
            CostError: A function returned a negative number, or no whole number.
            TimeoutError: A function did not return in time.
        """
        resolved = [*policy_costs]
        # By the function's identity: an object that can be called may have no hash.
        costs: dict[int, int] = {}
        for index, cost_function in self.cost_functions.items():
            if resolved[index].exempt:
                continue
            cost = costs.get(id(cost_function))
            if cost is None:
                connection = get_connection(scope)
                returned = await call_function(
                    cost_function, connection, "cost function", timeout_s
                )
                cost = costs[id(cost_function)] = check_cost(returned)
            resolved[index] = replace(resolved[index], cost=cost)
        return resolved


def select_policies(
    http_limiter: HTTPLimiter,
    dependencies: Sequence[RateLimitDependency],
    method: str | None,
    template: str,
    tier: str,
    *,
    own_limits: Sequence[RateLimitDependency] | None = None,
) -> ApplicablePolicies:
    """Select the policies that apply to a request, those of the dependencies last.

    Args:
        http_limiter: Limiter of the request, which has the active policy set.
        dependencies: Dependencies whose policies apply.
        method: HTTP method or `WEBSOCKET`, for the policies whose match includes the request; None
            for the policies of the dependencies only.
        template: The route's full template; empty where no route matched.
        tier: The caller's tier.
        own_limits: The only dependencies that limit the route, besides policies whose match names
            the template itself; None for all.

    Raises:
        ConfigError: A dependency names a policy that does not exist, or two different policies have
            one name.
    """
    policy_set = http_limiter.limiter.active_policies.current
    policies: dict[str, Policy] = {}
    if method is not None:
        matching = policy_set.select(method, template or UNMATCHED_ROUTE, tier)
        if own_limits is not None:
            matching = naming_route(matching, template)
        policies = {policy.name: policy for policy in matching}
    costs: dict[str, Cost] = {name: policy.cost or 1 for name, policy in policies.items()}
    exempt: set[str] = set()
    for dependency in dependencies:
        policy = dependency.resolve_policy(http_limiter)
        require_same_policy(policies.setdefault(policy.name, policy), policy)
        cost = dependency.cost
        costs[policy.name] = (policy.cost or 1) if cost is None else cost
        if own_limits is not None and dependency not in own_limits:
            exempt.add(policy.name)
            costs[policy.name] = 0
    return ApplicablePolicies(
        policy_set,
        dependencies,
        [
            PolicyCost(policy, cost if isinstance(cost, int) else 0, policy.name in exempt)
            for policy, cost in zip(policies.values(), costs.values(), strict=True)
        ],
        {
            index: cost
            for index, cost in enumerate(costs.values())
            if not isinstance(cost, int | Usage)
        },
        tuple(policies),
        frozenset().union(*(policy.key_headers for policy in policies.values())),
        KeySources.of(policies.values()),
        Exemptions.of(policies.values(), http_limiter),
        LimitFunctions.of(policies.values()),
        tuple(_settled_costs(policies.values(), costs.values())),
    )


def require_functions(policy: Policy) -> None:
    """Check that the functions of a policy can be called with a connection.

    Raises:
        ConfigError: One cannot; the message says what to write.
    """
    require_key_functions(policy)
    require_exempt_function(policy.exempt)
    require_limits_function(policy.limits_function)


def _settled_costs(policies: Iterable[Policy], costs: Iterable[Cost]) -> Iterator[SettledCost]:
    """Yield the costs that the response corrects."""
    for index, (policy, cost) in enumerate(zip(policies, costs, strict=True)):
        usage = cost if isinstance(cost, Usage) else None
        if usage is not None or policy.count is not None:
            yield SettledCost(policy, index, usage)


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
