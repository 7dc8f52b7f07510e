"""The policies in force: one immutable set, swapped whole."""

from collections.abc import Callable

from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.events import Event, PoliciesLoaded


class ActivePolicies:
    """Holds the policies in force.

    Args:
        emit: Hears of each new set.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.current = PolicySet()
        self._emit = emit
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `reader` after each change."""
        self._listeners.append(listener)

    def replace(self, policies: PolicySet) -> None:
        """Put a set in force, for every check that begins from now on."""
        self.current = policies
        for reader in self._listeners:
            reader()
        self._emit(PoliciesLoaded(policies))

    def require(self, name: str) -> Policy:
        """Return the policy of this name.

        Raises:
            ConfigError: There is none.
        """
        policy = self.current.get(name)
        if policy is None:
            known = ", ".join(each.name for each in self.current.policies) or "none"
            raise ConfigError(f"there is no policy {name!r} in {self.current.source}: {known}")
        return policy
