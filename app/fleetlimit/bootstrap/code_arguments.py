"""Arguments of an app's own `Fleetlimit`, which `fleetlimit serve` takes over or refuses."""

from dataclasses import dataclass

from fleetlimit.bootstrap.settings import Settings
from fleetlimit.core.policy import PolicySet
from fleetlimit.errors import ConfigError
from fleetlimit.identity import PrincipalResolver
from fleetlimit.limiter.events import Observer


@dataclass(frozen=True, slots=True)
class CodeArguments:
    """Arguments that the code of an app gives to its `Fleetlimit`.

    Args:
        settings: The settings, those of the environment included.
        setting_names: Names of the settings that the code gives.
        policies: The policies that the code gives or names the file of; None without.
        resolver: Verifier of further credentials.
        observers: Further observers.
        unshareable: Names of the arguments that a limiter cannot take over once it exists.
    """

    settings: Settings
    setting_names: tuple[str, ...]
    policies: PolicySet | None
    resolver: PrincipalResolver | None
    observers: tuple[Observer, ...]
    unshareable: tuple[str, ...]

    def require_adoptable(
        self, settings: Settings, active: PolicySet, resolver: PrincipalResolver | None
    ) -> None:
        """Check that a limiter can take the arguments over.

        Args:
            settings: Settings of the limiter.
            active: Active policies of the limiter.
            resolver: Resolver that the limiter took over before.

        Raises:
            ConfigError: It cannot; the message says what to write.
        """
        if self.unshareable:
            raise ConfigError(
                f"`fleetlimit serve` has its own {', '.join(self.unshareable)}: leave it out of "
                "the app's Fleetlimit(...), or serve the app with uvicorn"
            )
        if self.resolver is not None and resolver not in {None, self.resolver}:
            raise ConfigError(
                "two Fleetlimits of the app have a resolver, and `fleetlimit serve` has one "
                "limiter: use one resolver"
            )
        differing = [
            f"FLEETLIMIT_{name.upper()}"
            for name in self.setting_names
            if getattr(self.settings, name) != getattr(settings, name)
        ]
        if differing:
            raise ConfigError(
                "the app's Fleetlimit(...) has other settings than `fleetlimit serve`: set "
                f"{', '.join(differing)} to the same value, or leave it out of the app"
            )
        if self.policies is not None and not _includes(active, self.policies):
            raise ConfigError(
                f"the policies of {self.policies.source} in the app's Fleetlimit(...) are not "
                "those of `fleetlimit serve`: name their file with FLEETLIMIT_POLICIES or "
                "--policies, or leave them out of the app"
            )


def _includes(active: PolicySet, policies: PolicySet) -> bool:
    """Return whether policies are active: the same file, or each policy from code."""
    if policies.digest:
        # The file also has the section on identity.
        return policies.digest == active.digest
    return all(each in active.policies for each in policies.policies)
