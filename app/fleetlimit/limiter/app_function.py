"""Async functions that the app supplies: judged when they are given, and bounded in time."""

import asyncio
import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from fleetlimit.errors import ConfigError

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class AppFunction(Generic[Argument, Result]):
    """Async function of one argument that the app supplies.

    Args:
        function: The function, or an object with an async `__call__`.
        role: What the function is for, such as `resolver`; for messages.
        returns: Class of the results; None is a result as well.
        timeout_s: Seconds that a call may take. A function that blocks the event loop, or that
            suppresses its cancellation, is not bounded.

    Raises:
        ConfigError: The object is not an async function of one argument, or its annotation promises
            no result of the class.
    """

    def __init__(
        self,
        function: Callable[[Argument], Awaitable[Result | None]],
        *,
        role: str,
        returns: type[Result],
        timeout_s: float,
    ) -> None:
        _check_async(function, role)
        _check_signature(function, role, returns)
        self._function = function
        self._role = role
        self._returns = returns
        self._timeout_s = timeout_s

    async def __call__(self, argument: Argument) -> Result | None:
        """Call the function.

        Raises:
            TimeoutError: The function did not return in time.
            TypeError: The result is of another class.
            RuntimeError: The function was cancelled, although the request was not.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as timeout:
                result = await self._function(argument)
        except TimeoutError:
            if timeout.expired():
                raise TimeoutError(
                    f"the {self._role} did not return within {self._timeout_s:g} s"
                ) from None
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError(f"the {self._role} was cancelled by its own task") from None
        if result is not None and not isinstance(result, self._returns):
            raise TypeError(
                f"the {self._role} returned {type(result).__name__}: return "
                f"{self._returns.__name__} or None"
            )
        return result


def _check_async(function: Any, role: str) -> None:
    if not callable(function) or isinstance(function, type):
        raise ConfigError(f"the {role} {function!r} is not a function: write an `async def`")
    call = getattr(function, "__call__", None)  # noqa: B004 - the method of an object
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)):
        raise ConfigError(f"the {role} {function!r} is not async: write `async def`")


def _check_signature(function: Callable[..., Any], role: str, returns: type) -> None:
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception:  # noqa: BLE001 - an annotation may need a name that is only there for editors
        signature = inspect.signature(function)
    try:
        signature.bind(object())
    except TypeError:
        raise ConfigError(
            f"the {role} {function!r} cannot be called with one argument: write "
            f"`async def {role}(request)`"
        ) from None
    promised = signature.return_annotation
    union = typing.get_origin(promised) in {typing.Union, types.UnionType}
    options = typing.get_args(promised) if union else (promised,)
    if all(_is_other_builtin(option, returns) for option in options):
        raise ConfigError(
            f"the {role} {function!r} returns {promised!r}: return {returns.__name__} or None"
        )


def _is_other_builtin(option: Any, returns: type) -> bool:
    """Return whether an annotation is a class such as `str`, whose values are no result."""
    builtin = isinstance(option, type) and option.__module__ == "builtins" and option is not object
    return builtin and not issubclass(option, returns)
