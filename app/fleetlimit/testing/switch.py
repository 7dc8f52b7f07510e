"""Switch that turns all limits off, for tests of an app's other behaviour."""

import contextlib
import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from fleetlimit.limiter.limit_switch import LIMIT_SWITCH

_log = logging.getLogger("fleetlimit")
Function = TypeVar("Function", bound=Callable[..., Any])


class Unlimited(contextlib.ContextDecorator):
    """Context in which all limits of the process are off; `unlimited()` returns it."""

    def __enter__(self) -> None:
        _log.warning(
            "limits.off: fleetlimit.testing.unlimited() turns off all limits of this process"
        )
        LIMIT_SWITCH.turn_off()

    def __exit__(self, *_: object) -> None:
        LIMIT_SWITCH.restore()
        if not LIMIT_SWITCH.is_off:
            _log.warning("limits.on: all limits of this process are on again")

    def __call__(self, function: Function) -> Function:
        """Decorate a test function, sync or async.

        Raises:
            TypeError: It is a class or a generator, whose code would run after the limits are on
                again.
        """
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def run(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return run  # type: ignore[return-value]  # of the same signature
        if (
            isinstance(function, type)
            or inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise TypeError(
                f"@unlimited() cannot decorate {function!r}: write `with unlimited():` in its code"
            )
        return super().__call__(function)


def unlimited(*misused: object) -> Unlimited:
    """Admit every request and every check of this process while the context is open.

    Use it as `with unlimited():` or as the decorator `@unlimited()`. Nothing is spent and no limit
    header is sent. Callers are identified as before, so an invalid credential is rejected as
    before. Contexts may overlap: the limits are on again after the last one. Entering and leaving
    log a warning, because the limits of a service must not be off.

    Raises:
        TypeError: The parentheses of the decorator are missing.
    """
    if misused:
        raise TypeError("unlimited has no arguments: write @unlimited(), with parentheses")
    return Unlimited()
