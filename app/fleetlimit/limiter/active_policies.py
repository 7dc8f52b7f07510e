"""Active policies: the immutable policy set that checks use, replaced as a whole."""

from collections.abc import Callable
from typing import Final

from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import IN_CODE, PolicySet
from fleetlimit.core.quota import parse_rate
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.events import Event, PoliciesLoaded

_HOW_TO_GIVE: Final = (
    '; write FastAPI(lifespan=Fleetlimit(policies="policies.yaml")), or set FLEETLIMIT_POLICIES'
)


class ActivePolicies:
    """The policy set that is active.

    Args:
        emit: Receives an event for each new set.
        bucket_events: Receives the invalidation of what was derived from the previous set.
    """

    def __init__(self, emit: Callable[[Event], None], bucket_events: BucketEvents) -> None:
        self.current = PolicySet()
        self._emit = emit
        self._bucket_events = bucket_events

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each replacement."""
        self._bucket_events.subscribe(on_policies_replaced=listener)

    def replace(self, policies: PolicySet) -> None:
        """Activate a policy set for all checks that start from now on."""
        self.current = policies
        self._bucket_events.emit_policies_replaced()
        self._emit(PoliciesLoaded(policies))

    def require(self, name: str) -> Policy:
        """Return the policy of this name.

        Raises:
            ConfigError: The active set has no policy of this name.
        """
        policy = self.current.get(name)
        if policy is None:
            known = ", ".join(each.name for each in self.current.policies) or "none"
            # A policy file that is empty is named, and can be edited.
            advice = (
                _HOW_TO_GIVE if not self.current.policies and self.current.source == IN_CODE else ""
            )
            if _is_rate(name):
                advice = f'; for a limit in code write RateLimit("{name}")'
            raise ConfigError(
                f"there is no policy {name!r} in {self.current.source}: {known}{advice}"
            )
        return policy


def _is_rate(name: str) -> bool:
    try:
        parse_rate(name)
    except ConfigError:
        return False
    return True
