"""Decorator that checks a limit before each call of a function: `@limits.limited("emails")`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.policy_costs import CheckCost
from fleetlimit.web.manual_checks import ManualChecks, PolicyRef, Timeout, to_timeout_us
from fleetlimit.web.sync_limiter import SyncLimiter

Function = TypeVar("Function", bound=Callable[..., Any])
CallerOfCall = str | Principal | Callable[..., str | Principal] | None
"""The caller, or a function of the call's arguments that returns it."""
KeyOfCall = str | Callable[..., str] | None
"""The value of a key, or a function of the call's arguments that returns it."""
CostOfCall = CheckCost | Callable[..., CheckCost]
"""The cost, or a function of the call's arguments that returns it."""


class LimitedCalls:
    """Decorator of functions whose calls are limited.

    Args:
        limits: Limiter of async functions.
        sync: The same limiter, for other functions.
        policies: Policies of each call.
        principal: The caller, or a function of the call's arguments.
        tier: Tier of a caller that is given by its name.
        key: Value of the key, or a function of the call's arguments.
        cost: Cost of a call, or a function of its arguments.
        timeout: Seconds that a call waits for units; 0 to raise at once.

    Raises:
        ConfigError: `timeout` is no number of seconds, or no policy is named.
    """

    def __init__(
        self,
        limits: ManualChecks,
        sync: SyncLimiter,
        policies: tuple[PolicyRef, ...],
        *,
        principal: CallerOfCall,
        tier: str | None,
        key: KeyOfCall,
        cost: CostOfCall,
        timeout: Timeout,
    ) -> None:
        if not policies and not cost:
            raise ConfigError('@limited without a policy limits nothing: write @limited("name")')
        if len(policies) == 1 and inspect.isroutine(policies[0]):
            raise ConfigError('@limited has no policy: write @limited("name")')
        to_timeout_us(timeout)
        self._limits = limits
        self._sync = sync
        self._policies = policies
        self._principal = principal
        self._tier = tier
        self._key = key
        self._cost = cost
        self._timeout: Timeout = timeout

    def __call__(self, function: Function) -> Function:
        """Return the function with a check before each call.

        Raises:
            ConfigError: It is a class or a generator function, or a text is the name of one of its
                parameters.
        """
        self._require_function(function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def limited(*args: Any, **kwargs: Any) -> Any:
                async with self._limits.acquire(*self._policies, **self._arguments(args, kwargs)):
                    return await function(*args, **kwargs)

            return cast("Function", limited)

        @functools.wraps(function)
        def limited_sync(*args: Any, **kwargs: Any) -> Any:
            self._sync.open()
            with self._sync.acquire(*self._policies, **self._arguments(args, kwargs)):
                return function(*args, **kwargs)

        return cast("Function", limited_sync)

    def _require_function(self, function: Any) -> None:
        if isinstance(function, type) or not callable(function):
            raise ConfigError(f"@limited is for functions, not {function!r}: decorate a method")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(
                f"@limited cannot limit the generator {function.__qualname__}, whose code runs "
                "when it is iterated: write `await limits.check(...)` in it"
            )
        parameters = inspect.signature(function).parameters
        for name, value in (("principal", self._principal), ("key", self._key)):
            if isinstance(value, str) and value in parameters:
                raise ConfigError(
                    f"{name}={value!r} is one text for all calls: write {name}=lambda "
                    f"{', '.join(parameters)}: {value}"
                )

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the check of one call."""
        self._limits.require_uncounted(self._policies)

        def of_call(value: Any) -> Any:
            return value(*args, **kwargs) if callable(value) else value

        principal, key = of_call(self._principal), of_call(self._key)
        for name, given, found in (
            ("principal", self._principal, principal),
            ("key", self._key, key),
        ):
            if given is not None and found is None:
                raise ConfigError(f"the function {name} of @limited returned None: return a text")
        return {
            "principal": principal,
            "tier": self._tier,
            "key": key,
            "cost": of_call(self._cost),
            "timeout": self._timeout,
        }
