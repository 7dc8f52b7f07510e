"""Functions that the app supplies: judged when they are given, and async ones bounded in time."""

import asyncio
import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from fleetlimit.errors import ConfigError

DEFAULT_TIMEOUT_S: Final = 1.0
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
        subject = f"the {role} {function!r}"
        if not callable(function) or isinstance(function, type):
            raise ConfigError(f"{subject} is not a function: write an `async def`")
        if not is_async(function):
            raise ConfigError(f"{subject} is not async: write `async def`")
        require_one_argument(function, subject, f"async def {role}(request)")
        require_result(function, subject, (returns, type(None)), f"{returns.__name__} or None")
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
        result = await await_result(self._function(argument), self._role, self._timeout_s)
        if result is not None and not isinstance(result, self._returns):
            raise TypeError(
                f"the {self._role} returned {type(result).__name__}: return "
                f"{self._returns.__name__} or None"
            )
        return result


async def await_result(awaitable: Awaitable[Result], role: str, timeout_s: float) -> Result:
    """Return the result of an awaitable that a function of the app returned.

    Args:
        awaitable: The awaitable.
        role: What the function is for; for messages.
        timeout_s: Seconds until the awaitable is cancelled.

    Raises:
        TimeoutError: The function did not return in time.
        RuntimeError: The function was cancelled, although the request was not.
    """
    try:
        async with asyncio.timeout(timeout_s) as timeout:
            return await awaitable
    except TimeoutError:
        if timeout.expired():
            raise TimeoutError(f"the {role} did not return within {timeout_s:g} s") from None
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _cancelled(role) from None


def require_cost_function(function: Any) -> None:
    """Check that a function, plain or async, can compute a cost from a connection.

    Raises:
        ConfigError: It cannot; the message says what to write.
    """
    require_function(function, role="cost function", returns=(int,), example="def cost(connection)")


def require_function(function: Any, *, role: str, returns: tuple[type, ...], example: str) -> None:
    """Check that a function, plain or async, can be called with a connection.

    Args:
        function: The function, or an object that can be called.
        role: What the function is for, such as `cost function`; for messages.
        returns: Classes of the results; its annotation must promise one of them.
        example: The first line of such a function; for messages.

    Raises:
        ConfigError: It cannot; the message says what to write.
    """
    subject = f"the {role} {function!r}"
    if isinstance(function, type):
        raise ConfigError(f"{subject} is a class: write an object of it, or a function")
    require_no_generator(function, subject)
    require_one_argument(function, subject, example)
    wanted = " or ".join(each.__name__ for each in returns)
    require_result(function, subject, returns, wanted)


async def call_function(
    function: Callable[[Argument], Any], argument: Argument, role: str, timeout_s: float
) -> Any:
    """Return the result of a function, plain or async.

    Args:
        function: The function.
        argument: Its argument.
        role: What the function is for; for messages.
        timeout_s: Seconds that an async function may take; a plain one is not bounded.

    Raises:
        TimeoutError: The function did not return in time.
        RuntimeError: The function was cancelled, although the request was not.
    """
    try:
        returned = function(argument)
    except asyncio.CancelledError:
        raise _cancelled(role) from None
    if inspect.isawaitable(returned):
        return await await_result(returned, role, timeout_s)
    return returned


def _cancelled(role: str) -> RuntimeError:
    return RuntimeError(f"the {role} was cancelled by its own task")


def is_async(function: Any) -> bool:
    """Return whether a function, or the `__call__` of an object, is a coroutine function."""
    return _is_kind(function, inspect.iscoroutinefunction)


def require_no_generator(function: Any, subject: str) -> None:
    """Check that a call runs the function.

    Raises:
        ConfigError: It is a generator function, whose code runs only when it is iterated.
    """
    if _is_kind(function, inspect.isgeneratorfunction) or _is_kind(
        function, inspect.isasyncgenfunction
    ):
        raise ConfigError(f"{subject} is a generator: write `return` in place of `yield`")


def require_one_argument(function: Any, subject: str, example: str) -> None:
    """Check that a function can be called with one positional argument.

    Raises:
        ConfigError: It cannot; the message has the example to write.
    """
    require_arguments(function, 1, subject, example)


def require_arguments(function: Any, count: int, subject: str, example: str) -> None:
    """Check that a function can be called with a number of positional arguments.

    Raises:
        ConfigError: It cannot; the message has the example to write.
    """
    try:
        signature = _signature(function)
    except ValueError:
        # Python knows no signature of some built-in functions.
        return
    try:
        signature.bind(*[object()] * count)
    except TypeError:
        number = "one argument" if count == 1 else f"{count} arguments"
        raise ConfigError(f"{subject} cannot be called with {number}: write `{example}`") from None


def require_result(function: Any, subject: str, allowed: tuple[type, ...], expected: str) -> None:
    """Check that a function's annotation does not promise only results of other types.

    Raises:
        ConfigError: It does; the message has the expected result.
    """
    if _promises_other(function, allowed):
        promised = _signature(function).return_annotation
        raise ConfigError(f"{subject} returns {promised!r}: return {expected}")


def _is_kind(function: Any, is_kind: Callable[[Any], bool]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - the method of an object
    return is_kind(function) or is_kind(call)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # noqa: BLE001 - an annotation may need a name that is only there for editors
        return inspect.signature(function)


def _promises_other(function: Callable[..., Any], allowed: tuple[type, ...]) -> bool:
    """Return whether an annotation promises results such as `str`, and none that are allowed."""
    try:
        promised = _signature(function).return_annotation
    except ValueError:
        return False
    union = typing.get_origin(promised) in {typing.Union, types.UnionType}
    options = typing.get_args(promised) if union else (promised,)
    # In a union None is one of several results, and an error only if it is returned.
    wanted = [each for each in options if not (union and each is type(None))]
    return all(_is_other_builtin(each, allowed) for each in wanted)


def _is_other_builtin(option: Any, allowed: tuple[type, ...]) -> bool:
    option = type(None) if option is None else option
    builtin = isinstance(option, type) and option.__module__ == "builtins" and option is not object
    return builtin and not issubclass(option, allowed)
