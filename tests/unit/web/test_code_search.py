"""Search of an app's code: it runs none of it, and finds its way through every kind of function."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest

from fleetlimit.web.code_search import find_reference


class Wanted:
    """Object to find."""


def fail(_proxy: object) -> NoReturn:
    raise RuntimeError("the settings are not configured")


class Handler:
    """Endpoint that is an object, with a limiter perhaps."""

    def __init__(self, held: object = None) -> None:
        self.held = held

    async def __call__(self) -> object:
        """Answer a request."""
        return self.held


LAZY: Any = type("Lazy", (), {"__class__": property(fail)})()
"""Proxy of an object that cannot be made yet."""


def is_wanted(value: Any) -> bool:
    return type(value) is Wanted


def decorated(function: Callable[[], Awaitable[object]], held: object = None) -> Any:
    @functools.wraps(function)
    async def call() -> object:
        return held or await function()

    return call


async def endpoint(_held: object = None) -> None:
    pass


async def use_lazy() -> object:
    return LAZY


def make_by_exec() -> Any:
    names: dict[str, Any] = {}
    exec("async def made() -> None: pass", names)  # noqa: S102 - as libraries do
    return names["made"]


@pytest.mark.parametrize(
    "root",
    [
        use_lazy,
        functools.partial(endpoint, LAZY),
        make_by_exec(),
        decorated(Handler()),
        decorated(functools.partial(endpoint)),
    ],
    ids=["lazy_object", "lazy_argument", "made_by_exec", "decorated_object", "decorated_partial"],
)
def test_unusual_code_is_no_error(root: Any) -> None:
    """Code that has no source, and objects that fail when they are read, are skipped."""
    assert find_reference([root], is_wanted) is None


@pytest.mark.parametrize(
    "root",
    [
        decorated(endpoint, Wanted()),
        decorated(decorated(endpoint, Wanted())),
        decorated(Handler(Wanted())),
        decorated(functools.partial(endpoint, Wanted())),
    ],
    ids=["decorator", "decorator_behind_another", "decorated_object", "decorated_partial"],
)
def test_object_behind_decorators_is_found(root: Any) -> None:
    """The search follows closures and partials, not only the function that a decorator wraps."""
    assert is_wanted(find_reference([root], is_wanted))
