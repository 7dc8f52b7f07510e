"""Search of an app's code: it runs none of it, and finds its way through every kind of function."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest

from fleetlimit.web.code_search import MAX_ENTRIES, MAX_VALUES, find_reference


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
    result = find_reference([root], is_wanted)
    assert result.found is None
    assert result.is_complete


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
    assert is_wanted(find_reference([root], is_wanted).found)


class Counted:
    """Entry of a container that counts how many entries were looked at."""

    looked_at = 0

    def __init__(self, held: object = None) -> None:
        self.held = held


def is_wanted_counted(value: Any) -> bool:
    if type(value) is Counted:
        Counted.looked_at += 1
    return is_wanted(value)


class Sequence(list[object]):
    """Endpoint that is a list."""

    async def __call__(self) -> None:
        """Answer a request."""


class Lazy(dict[str, object]):
    """Dictionary that makes its values when they are read."""

    values = fail
    __iter__ = fail


@pytest.mark.parametrize("surplus", [0, 1])
@pytest.mark.parametrize("kind", ["dictionary", "list"])
def test_entries_of_a_container_are_bounded(
    monkeypatch: pytest.MonkeyPatch, kind: str, surplus: int
) -> None:
    """Of a longer container the first entries are searched, and the result is not complete."""
    monkeypatch.setattr(Counted, "looked_at", 0)
    entries = [Counted() for _ in range(MAX_ENTRIES + surplus - (kind == "list"))]
    root = Handler(dict(enumerate(entries))) if kind == "dictionary" else Sequence(entries)
    result = find_reference([root], is_wanted_counted)
    assert result.found is None
    assert result.is_complete is not bool(surplus)
    assert MAX_ENTRIES - 1 <= Counted.looked_at <= MAX_ENTRIES


def test_object_beside_a_large_container_is_found() -> None:
    """A container that is cut off hides neither later attributes nor later containers."""
    data = dict.fromkeys(range(MAX_ENTRIES + 1))
    for later in (Wanted(), {"limiter": Wanted()}):
        root = Handler(data)
        vars(root)["later"] = later
        assert is_wanted(find_reference([root], is_wanted).found)


class Link:
    """Endpoint that holds an object."""

    def __init__(self, held: object) -> None:
        self.held = held

    async def __call__(self) -> None:
        """Answer a request without the object."""


@pytest.mark.parametrize("kind", [Handler, Link], ids=["named", "held"])
def test_values_of_a_search_are_bounded(kind: Callable[[object], object]) -> None:
    """A search of nested objects ends; what is near is found before what is deep."""
    deep = kind(None)
    for _ in range(MAX_VALUES):
        deep = kind(deep)
    result = find_reference([deep], is_wanted)
    assert (result.found, result.is_complete) == (None, False)
    assert is_wanted(find_reference([kind(Wanted()), deep], is_wanted).found)
    assert is_wanted(find_reference([deep, kind(Wanted())], is_wanted).found)


def test_cycles_end() -> None:
    """Objects that refer to each other are searched once."""
    first, entries = Handler(), dict[str, object]()
    first.held, entries["first"] = Handler(entries), first
    entries["entries"] = entries
    result = find_reference([first], is_wanted)
    assert (result.found, result.is_complete) == (None, True)


def test_dictionary_with_methods_of_its_own_is_searched_without_them() -> None:
    """The search runs no code of a container."""
    assert is_wanted(find_reference([Handler(Lazy(limiter=Wanted()))], is_wanted).found)
