"""Policy set: the policies that are active together, and which of them apply to a request."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.subject import UNVERIFIED_TIER
from fleetlimit.errors import ConfigError

DEFAULT_POLICY = "default"
IN_CODE: Final = "code"
"""Source of a policy set that no file defines."""
_CACHE_SIZE = 4_096
_MAX_METHOD_CHARS = 32


class PolicySet:
    """Immutable set of policies, replaced as a whole on reload.

    Args:
        policies: The policies, in the order in which they are reported.
        generation: Number that grows with each set that this process loads.
        digest: Hash of the text of the policy file, equal on all replicas that serve it.
        source: Description of the origin, for error messages.

    Raises:
        ConfigError: Two policies have the same name.
    """

    def __init__(
        self,
        policies: Iterable[Policy] = (),
        *,
        generation: int = 0,
        digest: str = "",
        source: str = IN_CODE,
    ) -> None:
        if isinstance(policies, str) or not isinstance(policies, Iterable):
            raise ConfigError(
                f"PolicySet({policies!r}) has no list of policies: write PolicySet([Policy(...)]), "
                'or Fleetlimit(policies="policies.yaml") for a file'
            )
        self.policies: Final = tuple(policies)
        for each in self.policies:
            if not isinstance(each, Policy):
                raise ConfigError(
                    f'{each!r} is no policy: write Policy("exports", "5/minute", ...)'
                )
        self.generation: Final = generation
        self.digest: Final = digest
        self.source: Final = source
        self._by_name = {policy.name: policy for policy in self.policies}
        if len(self._by_name) < len(self.policies):
            names = [policy.name for policy in self.policies]
            double = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two policies are named {double!r}: rename one of them")
        self._cached_select = lru_cache(_CACHE_SIZE)(self._select)

    def get(self, name: str) -> Policy | None:
        """Return the policy of this name, or None."""
        return self._by_name.get(name)

    def for_route(self, method: str, template: str) -> tuple[Policy, ...]:
        """Return the policies that can apply to this route, for any tier.

        The policy `default` applies to a route unless another policy applies to it for every tier
        and is fully enforced. A policy in shadow mode therefore never leaves a route unlimited.
        """
        named = tuple(
            policy
            for policy in self.policies
            if policy.name != DEFAULT_POLICY
            and policy.mode is not Mode.OFF
            and policy.match is not None
            and policy.match.matches_route(method, template)
        )
        if any(
            policy.fully_enforced and policy.match and not policy.match.tiers for policy in named
        ):
            return named
        default = self._by_name.get(DEFAULT_POLICY)
        return (*named, default) if default and default.mode is not Mode.OFF else named

    def select(self, method: str, template: str, tier: str) -> tuple[Policy, ...]:
        """Return the policies that apply to a request of this tier.

        `default` is among them unless another one is that is fully enforced. For a caller whose
        credential did not verify, the policies of all tiers apply.
        """
        # Some servers accept any text as a method: clients must not be able to fill the cache.
        cacheable = len(method) <= _MAX_METHOD_CHARS
        return (self._cached_select if cacheable else self._select)(method, template, tier)

    def _select(self, method: str, template: str, tier: str) -> tuple[Policy, ...]:
        candidates = self.for_route(method, template)
        if tier == UNVERIFIED_TIER:
            return candidates
        named = tuple(
            policy
            for policy in candidates
            if policy.name != DEFAULT_POLICY
            and policy.match is not None
            and (not policy.match.tiers or tier in policy.match.tiers)
        )
        if any(policy.fully_enforced for policy in named):
            return named
        return (*named, *(policy for policy in candidates if policy.name == DEFAULT_POLICY))


def naming_route(policies: Iterable[Policy], template: str) -> tuple[Policy, ...]:
    """Return the policies whose match names this route itself, not by `*` or by any route."""
    return tuple(
        policy
        for policy in policies
        if policy.match is not None and template in policy.match.routes
    )
