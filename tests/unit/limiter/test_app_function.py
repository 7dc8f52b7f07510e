"""Functions that the app supplies: judged when they are given, and bounded in time."""

import asyncio
from typing import Any

import pytest

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import AppFunction, call_function


def cost_of(function: Any, *, timeout_s: float = 60.0) -> AppFunction[str, int]:
    return AppFunction(function, role="cost", returns=int, timeout_s=timeout_s)


async def length(text: str) -> int:
    """Return the length of a text."""
    return len(text)


async def flag(text: str) -> bool:
    """Return whether a text is not empty; a bool is an int."""
    return bool(text)


async def anything(text: str) -> object:
    """Return a text."""
    return text


async def fraction(text: str) -> float | None:
    """Return a number that is not whole."""
    return len(text) / 2


async def hang(_text: str) -> int:
    """Never return."""
    await asyncio.Event().wait()
    raise AssertionError


async def missing(_text: "Missing") -> "Missing":  # type: ignore[name-defined] # noqa: F821 - as under TYPE_CHECKING
    """Return nothing, with annotations that cannot be evaluated."""
    return None


@pytest.mark.parametrize(("function", "result"), [(length, 3), (flag, True), (missing, None)])
async def test_function_is_called_with_its_argument(function: Any, result: object) -> None:
    """The result is that of the function."""
    assert await cost_of(function)("abc") == result


async def test_result_of_another_class_is_an_error() -> None:
    """What an annotation does not show is seen when it is returned."""
    with pytest.raises(TypeError, match="the cost returned str: return int or None"):
        await cost_of(anything)("abc")


async def test_timeout_is_an_error() -> None:
    """A call takes no longer than its timeout."""
    with pytest.raises(TimeoutError, match=r"the cost did not return within 0\.001 s"):
        await cost_of(hang, timeout_s=0.001)("abc")


@pytest.mark.parametrize("error", [TimeoutError("own"), OSError("own")])
async def test_exceptions_of_the_function_pass(error: Exception) -> None:
    """An exception, also a timeout of its own, is raised as it is."""

    async def fail(_text: str) -> int:
        raise error

    with pytest.raises(type(error), match="own"):
        await cost_of(fail)("abc")


async def test_cancellation_of_the_function_is_an_error_and_of_the_caller_is_none() -> None:
    """Only a cancelled caller sees a cancellation."""

    async def cancelled(_text: str) -> int:
        raise asyncio.CancelledError

    def plain(_text: str) -> int:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="the cost was cancelled by its own task"):
        await cost_of(cancelled)("abc")
    with pytest.raises(RuntimeError, match="the cost was cancelled by its own task"):
        await call_function(plain, "abc", "cost", 60)
    task = asyncio.ensure_future(cost_of(hang)("abc"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (7, "is not a function: write an `async def`"),
        (int, "is not a function"),
        (len, "is not async: write `async def`"),
        (AppFunction.__init__, "is not async"),
        (fraction, r"returns float \| None: return int or None"),
        (
            AppFunction.__call__,
            r"cannot be called with one argument: write `async def cost\(request",
        ),
    ],
)
def test_mistakes_are_errors_when_the_function_is_given(function: Any, message: str) -> None:
    """Neither a plain function, nor another signature, nor another result is accepted."""
    with pytest.raises(ConfigError, match=message):
        cost_of(function)
