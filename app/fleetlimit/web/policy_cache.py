"""Cache of the policies that apply to the requests of a route."""

from collections.abc import Sequence
from typing import Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.route_policies import (
    METHODS,
    ApplicablePolicies,
    RateLimitDependency,
    select_policies,
)

MAX_CACHED: Final = 64
"""Largest number of entries for each route: methods times tiers."""


class PolicyCache:
    """Cache of the applicable policies of one route, by method and tier.

    Args:
        own_limits: As in `select_policies`.
    """

    def __init__(self, *, own_limits: Sequence[RateLimitDependency] | None = None) -> None:
        self._own_limits = own_limits
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
        applicable = select_policies(
            http_limiter, dependencies, method, template, tier, own_limits=self._own_limits
        )
        # Some servers accept any word as a method; invented ones must not evict other entries.
        if method is None or method in METHODS:
            self._cache.put(key, applicable)
        return applicable
