"""Limiter whose checks code makes by hand, with its face for code that is not async."""

import asyncio
from typing import Any, ClassVar, Final
from weakref import WeakSet

from pydantic import GetCoreSchemaHandler, PydanticSchemaGenerationError

from fleetlimit.errors import ConfigError
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.limited import CallerOfCall, CostOfCall, KeyOfCall, LimitedCalls
from fleetlimit.web.manual_checks import ManualChecks, PolicyRef, Timeout
from fleetlimit.web.sync_limiter import LoopThread, SyncLimiter


class ManualLimiter(ManualChecks):
    """Limiter whose checks code makes by hand.

    The caller is named by code: `principal="alice"`. `key=` is the value of another key, and
    `subject=Subject(...)` has all parts of a key. Policies are given by name, as a `Policy`, or as
    a limit that has a name, such as `RateLimit("5/second", name="chat")`.
    """

    _PARAMETER: ClassVar = "limits: DepLimiter"
    """Parameter of an endpoint that gets such a limiter."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        try:
            return handler(source)
        except PydanticSchemaGenerationError:
            # FastAPI makes a field of each parameter without `Depends`.
            raise ConfigError(
                f"FastAPI cannot read a {cls.__name__} from a request: write the parameter as "
                f"{cls._PARAMETER}"
            ) from None

    def sync(self) -> SyncLimiter:
        """Return the limiter for code that is not async, whose checks block.

        In an app write `def endpoint(limits: DepLimiter): limits.sync().check(...)`. In a script:
        `with Fleetlimit(...).sync() as limits: limits.check(...)`.
        """
        return SyncLimiter(self, self._loop_thread())

    def _loop_thread(self) -> LoopThread:
        return LoopThread(self._running_loop)

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        return self._running_limiter().limiter.running_loop

    def limited(
        self,
        *policies: PolicyRef,
        principal: CallerOfCall = None,
        tier: str | None = None,
        key: KeyOfCall = None,
        cost: CostOfCall = None,
        timeout: Timeout = 0,
    ) -> LimitedCalls:
        """Return a decorator that checks policies before each call of a function.

        It is for functions and methods, async or not: `@limits.limited("sms", principal=lambda
        phone, text: phone)`. The units of a `concurrency` limit are held during the call.

        Args:
            policies: Policies, or names of active policies.
            principal: The caller, or a function of the call's arguments that returns it.
            tier: Tier of a caller that is given by its name.
            key: Value of the key, or a function of the call's arguments that returns it.
            cost: Cost of a call, or a function of its arguments that returns it.
            timeout: Seconds that a call waits for units; by default it raises at once.

        Raises:
            ConfigError: No policy is named, or `timeout` is no number of seconds.
        """
        return LimitedCalls(
            self,
            self.sync(),
            policies,
            principal=principal,
            tier=tier,
            key=key,
            cost=cost,
            timeout=timeout,
        )


class _RunningLimiter(ManualLimiter):
    """The only limiter that runs in the process, found again at each check."""

    def _running_limiter(self) -> HTTPLimiter:
        found = {id(each.limiter): each for each in map(_http_limiter_of, RUNNING_LIMITERS)}
        if len(found) != 1:
            state = f"{len(found)} Fleetlimits run" if found else "no Fleetlimit runs"
            raise ConfigError(
                f"{state} in this process, and @limited needs one: write @limited(..., "
                "limits=limits), or start the Fleetlimit first"
            )
        return next(iter(found.values()))


def _http_limiter_of(limits: ManualLimiter) -> HTTPLimiter:
    return limits._running_limiter()  # noqa: SLF001 - of this module


RUNNING_LIMITERS: Final[WeakSet[ManualLimiter]] = WeakSet()
"""Limiters that were started and not closed."""
_ONLY: Final = _RunningLimiter()


def limited(
    *policies: PolicyRef,
    limits: ManualLimiter | None = None,
    principal: CallerOfCall = None,
    tier: str | None = None,
    key: KeyOfCall = None,
    cost: CostOfCall = None,
    timeout: Timeout = 0,
) -> LimitedCalls:
    """Return a decorator that checks policies before each call of a function.

    Args:
        policies: As in `ManualLimiter.limited`, like the other arguments.
        limits: The limiter; by default the only one that runs in the process at the call.
        principal: As above.
        tier: As above.
        key: As above.
        cost: As above.
        timeout: As above.

    Raises:
        ConfigError: No policy is named, or `timeout` is no number of seconds.
    """
    return (limits or _ONLY).limited(
        *policies, principal=principal, tier=tier, key=key, cost=cost, timeout=timeout
    )
