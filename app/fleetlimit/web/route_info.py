"""Route of an app, with the limits in code and the policies that apply to its requests."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from fastapi.dependencies.utils import get_dependant
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet, naming_route
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.errors import ConfigError
from fleetlimit.web.policy_cache import PolicyCache
from fleetlimit.web.returned_limits import require_no_returned_limit
from fleetlimit.web.route_policies import RateLimitDependency

OWN_LIMITS_KEY: Final = "fleetlimit_own_limits"
"""Attribute of an endpoint with a list of the limits in code that apply to it."""


@dataclass(frozen=True)
class RouteInfo:
    """One route of an app.

    Args:
        template: Full template, such as `/v1/items/{item_id}`; empty where no route matched.
        methods: Methods in upper case; empty for any.
        dependency_calls: Callables of the route's dependencies, sub-dependencies included.
        dependant: FastAPI's tree of the route's dependencies; None for a route of Starlette.
        overrides_provider: App whose `dependency_overrides` apply to the route; None for a route of
            Starlette.
        host: Pattern of the hosts that serve the route; empty for any.
        mounted_app: Nearest mounted Starlette app that the route belongs to; None for a route of
            the outermost app.
        mount_cors: CORS middlewares of the mounts and mounted apps around the route, the outermost
            first.
        route_cors: CORS middlewares of the route itself.
        endpoint: Function or app that handles requests; None where no route of the app does.
    """

    template: str = ""
    methods: frozenset[str] = frozenset()
    dependency_calls: tuple[Any, ...] = ()
    dependant: Any = field(default=None, repr=False, compare=False)
    overrides_provider: Any = field(default=None, repr=False, compare=False)
    host: str = ""
    mounted_app: Starlette | None = field(default=None, repr=False, compare=False)
    mount_cors: tuple[CORSMiddleware, ...] = field(default=(), repr=False, compare=False)
    route_cors: tuple[CORSMiddleware, ...] = field(default=(), repr=False, compare=False)
    endpoint: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def policy_cache(self) -> PolicyCache:
        """Cache of the policies that apply to requests of this route."""
        return PolicyCache(own_limits=self.own_limits)

    @cached_property
    def own_limits(self) -> Sequence[RateLimitDependency] | None:
        """The only limits in code that apply to the route, and policies that name it; None for all.

        Others would turn away callers who want to see what is left of them.
        """
        own = getattr(self.endpoint, OWN_LIMITS_KEY, None)
        return own if isinstance(own, list) else None

    def is_limited_by(self, dependency: RateLimitDependency) -> bool:
        """Return whether a limit in code applies to the route, which may be exempt."""
        return self.own_limits is None or dependency in self.own_limits

    def policies_for(self, policies: PolicySet, method: str) -> tuple[Policy, ...]:
        """Return the policies whose match can include a request of this route, for any tier."""
        found = policies.for_route(method, self.template)
        return found if self.own_limits is None else naming_route(found, self.template)

    @cached_property
    def rate_limits(self) -> tuple[RateLimitDependency, ...]:
        """The dependencies that are rate limits, each once, without `dependency_overrides`."""
        if self.dependant is not None:
            _require_wrapped(self.dependant)
            require_no_returned_limit(self.dependant)
        return _rate_limits(self.dependency_calls)

    @cached_property
    def cors(self) -> tuple[CORSMiddleware, ...]:
        """The CORS middlewares that a request passes after the app's own, the outermost first."""
        return (*self.mount_cors, *self.route_cors)

    def active_rate_limits(self) -> tuple[RateLimitDependency, ...]:
        """Return the rate limits that FastAPI runs for a request, each once."""
        provider = self.overrides_provider
        if provider is None or not provider.dependency_overrides:
            return self.rate_limits
        return _rate_limits(self.active_calls())

    def active_calls(self) -> tuple[Any, ...]:
        """Return the callables of the dependencies that FastAPI runs for a request."""
        provider = self.overrides_provider
        if provider is None or not (overrides := provider.dependency_overrides):
            return self.dependency_calls
        return tuple(iter_calls(self.dependant, overrides))

    @cached_property
    def name(self) -> str:
        """Methods and template, as in bucket keys, logs and traces."""
        if not self.template:
            return UNMATCHED_ROUTE
        # Starlette adds HEAD to GET; both are the same route.
        methods = sorted(self.methods - {"HEAD"} or self.methods) or ["ANY"]
        return f"{','.join(methods)} {self.template}"


UNMATCHED = RouteInfo()


def iter_calls(dependant: Any, overrides: Mapping[Any, Any]) -> Iterator[Any]:
    """Yield the calls that `fastapi.dependencies.utils.solve_dependencies` runs."""
    for each in dependant.dependencies:
        call, dependencies = each.call, each
        if overrides and call in overrides:
            call = overrides[call]
            dependencies = get_dependant(path=each.path or "", call=call)
        yield call
        yield from iter_calls(dependencies, overrides)


def _require_wrapped(dependant: Any) -> None:
    """Check that no parameter has a limit as its default, which FastAPI reads from the query.

    Raises:
        ConfigError: One has, so that the route would not be limited.
    """
    for each in dependant.query_params:
        limit = each.field_info.default
        if isinstance(limit, RateLimitDependency):
            raise ConfigError(
                f"the parameter {each.name}={limit!r} limits nothing: write "
                f"{each.name}=Depends({limit!r})"
            )
    for each in dependant.dependencies:
        _require_wrapped(each)


def _rate_limits(calls: Iterable[Any]) -> tuple[RateLimitDependency, ...]:
    limits = []
    for each in calls:
        if isinstance(each, type) and issubclass(each, RateLimitDependency):
            # FastAPI would take the arguments of the class from the query, so that clients choose.
            raise ConfigError(
                f"Depends({each.__name__}) has no limit: write Depends({each.__name__}(...)) with "
                "its arguments"
            )
        if isinstance(each, RateLimitDependency):
            limits.append(each)
    return tuple(dict.fromkeys(limits))
