"""Functions of a policy: equal by code, with names that are the same in all processes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fleetlimit.core.policy_function import PolicyFunction


def named(connection: Any, suffix: str = "") -> str:
    """Return a key."""
    return f"{connection}{suffix}"


def factory(value: Any, *, default: str = "") -> Callable[[Any], str]:
    """Return a function with a closure and a default."""

    def inner(connection: Any, more: str = default, *, last: str = default) -> str:
        return f"{connection}{value}{more}{last}"

    return inner


class Keys:
    """Object with a method, and one that can be called."""

    def key(self, connection: Any) -> str:
        """Return a key."""
        return f"{connection}"

    __call__ = key


KEYS = Keys()
SAME: list[Callable[[], Any]] = [
    lambda: named,
    lambda: factory("a"),
    lambda: factory(("a", 1, None, frozenset({"x", "y"}))),
    lambda: factory("a", default="b"),
    lambda: factory(named),
    lambda: partial(named, suffix="a"),
    lambda: KEYS,
    lambda: KEYS.key,
    lambda: lambda connection: connection.headers["x"],
    lambda: lambda connection: connection in {"a", "b"},
    lambda: "".join,
]


@pytest.mark.parametrize("make", SAME)
def test_functions_of_equal_code_are_equal(make: Callable[[], Any]) -> None:
    """Two functions that were made alike are one, with one name."""
    first, second = PolicyFunction(make()), PolicyFunction(make())
    assert first == second
    assert hash(first) == hash(second)
    assert first.name == second.name == repr(first)


def test_functions_of_different_code_differ_in_their_name() -> None:
    """Code, closure, defaults and arguments are part of the name."""
    functions = [PolicyFunction(make()) for make in SAME[:6]]
    functions += [
        PolicyFunction(factory("b")),
        PolicyFunction(partial(named, suffix="b")),
        PolicyFunction(lambda connection: connection.headers["x"]),
        PolicyFunction(lambda connection: connection.headers["y"]),
        PolicyFunction(lambda connection: connection.query_params["y"]),
    ]
    assert len({each.name for each in functions}) == len(functions)
    assert len(set(functions)) == len(functions)


def test_objects_of_one_class_are_different_functions() -> None:
    """What an object contains is not compared, so that no function stands for another."""
    assert PolicyFunction(Keys()) != PolicyFunction(Keys())
    assert PolicyFunction(Keys().key) != PolicyFunction(KEYS.key)
    assert PolicyFunction(factory(Keys())) != PolicyFunction(factory(KEYS))
    assert PolicyFunction(named) != named


def test_name_of_a_function_is_its_module_and_qualified_name() -> None:
    """Only a function without a name of its own has a hash."""
    assert PolicyFunction(named).name == f"{__name__}.named"
    assert PolicyFunction(KEYS.key).name == f"{__name__}.Keys.key"
    local = PolicyFunction(factory("a")).name
    assert local.startswith(f"{__name__}.factory.<locals>.inner-")


def test_function_in_its_own_closure_ends() -> None:
    """A recursive function, and a variable without a value, have a name."""

    def recursive(connection: Any) -> str:
        return recursive(connection) if unset else ""

    assert PolicyFunction(recursive) == PolicyFunction(recursive)
    unset = False
    assert not unset
