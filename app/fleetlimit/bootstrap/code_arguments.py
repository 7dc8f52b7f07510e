"""Arguments that code gives to `Fleetlimit`: their effect, and those that `serve` refuses."""

from dataclasses import dataclass

from starlette.applications import Starlette

from fleetlimit.bootstrap.settings import Settings
from fleetlimit.core.exemption import Exemption, ExemptionSource
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.errors import ConfigError
from fleetlimit.identity import PrincipalResolver
from fleetlimit.limiter.observers import Observer
from fleetlimit.limiter.ports import Clock
from fleetlimit.limiter.provided_limits import LimitsProvider, ProvidedLimits
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.rejections import RejectionSender


@dataclass(frozen=True, slots=True)
class CodeArguments:
    """Arguments that the code of an app gives to its `Fleetlimit`.

    Args:
        settings: The settings, those of the environment included.
        setting_names: Names of the settings that the code gives.
        policies: The policies that the code gives or names the file of; None without.
        resolver: Verifier of further credentials.
        exempt: Requests that no policy limits.
        limits: Function that returns the limits of callers, and the seconds that an answer is used.
        observers: Further observers.
        rejection_sender: What the code has for rejections.
        unshareable: Names of the arguments that a limiter cannot take over once it exists.
    """

    settings: Settings
    setting_names: tuple[str, ...]
    policies: PolicySet | None
    resolver: PrincipalResolver | None
    exempt: ExemptionSource | None
    limits: tuple[LimitsProvider, float] | None
    observers: tuple[Observer, ...]
    rejection_sender: RejectionSender
    unshareable: tuple[str, ...]

    def apply(self, http_limiter: HTTPLimiter, clock: Clock) -> None:
        """Give a limiter the functions that decide for its callers.

        Args:
            http_limiter: The limiter.
            clock: Clock of the process, for the age of answers.

        Raises:
            ConfigError: The limiter has other functions.
        """
        _apply_exemption(self.exempt, http_limiter)
        _apply_limits(self.limits, http_limiter, clock)

    def require_adoptable(
        self,
        settings: Settings,
        active: PolicySet,
        resolver: PrincipalResolver | None,
        rejection_sender: RejectionSender,
    ) -> None:
        """Check that a limiter can take the arguments over.

        Args:
            settings: Settings of the limiter.
            active: Active policies of the limiter.
            resolver: Resolver that the limiter took over before.
            rejection_sender: What the limiter has for rejections, taken over before.

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
        own = self.rejection_sender
        if own.is_needed and rejection_sender.is_needed and own != rejection_sender:
            raise ConfigError(
                "two Fleetlimits of the app answer rejections differently, and `fleetlimit serve` "
                "has one limiter: use the same on_rejected and use_exception_handlers"
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


def require_no_app(store: object) -> None:
    """Check that `Fleetlimit` was not called as a lifespan or a middleware is.

    Raises:
        ConfigError: It was.
    """
    if isinstance(store, Starlette):
        # An app calls its lifespan with itself.
        raise ConfigError("lifespan=Fleetlimit is the class: write lifespan=Fleetlimit()")
    if callable(store):
        # What Starlette calls a middleware with.
        raise ConfigError(
            "Fleetlimit is a lifespan, not a middleware: write FastAPI(lifespan=Fleetlimit()) "
            "and app.add_middleware(RateLimitMiddleware)"
        )


def given_settings(settings: Settings | None, **arguments: object) -> tuple[str, ...]:
    """Return the names of the settings that code gives, without policies and replica name."""
    if settings is None:
        return given_names(**arguments)
    return tuple(name for name in Settings.model_fields if name not in {"policies", "replica"})


def given_names(**arguments: object) -> tuple[str, ...]:
    """Return the names of the arguments that are not None."""
    return tuple(name for name, value in arguments.items() if value is not None)


def _apply_exemption(exemption: ExemptionSource | None, http_limiter: HTTPLimiter) -> None:
    if exemption is None:
        return
    limiter = http_limiter.limiter
    if (limiter.exemption or http_limiter.exempt_function) not in {None, exemption}:
        raise ConfigError(
            "two Fleetlimits of the app have exempt=..., and `fleetlimit serve` has one "
            "limiter: use one exemption"
        )
    if isinstance(exemption, Exemption):
        limiter.exemption = exemption
    else:
        http_limiter.exempt_function = exemption


def _apply_limits(
    limits: tuple[LimitsProvider, float] | None, http_limiter: HTTPLimiter, clock: Clock
) -> None:
    if limits is None:
        return
    provider, ttl_s = limits
    limiter = http_limiter.limiter
    active = limiter.provided_limits
    if active is not None and (active.provider, active.ttl_s) != limits:
        raise ConfigError(
            "two Fleetlimits of the app have limits=..., and `fleetlimit serve` has one "
            "limiter: use one function and one limits_ttl"
        )
    if active is None:
        limiter.provided_limits = ProvidedLimits(
            provider,
            ttl_s=ttl_s,
            timeout_s=http_limiter.function_timeout_s,
            clock=clock,
            failure_log=http_limiter.failure_log,
            emit=limiter.emit,
        )
