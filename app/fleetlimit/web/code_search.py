"""Search of code for an object that it refers to, without running the code.

It does not find an object that is imported from a module that is not loaded yet, that a name
computed at run time leads to, that is an element of a list, or that only functions of another
top-level module lead to, such as `limits.py` beside `main.py`. Following those, too, would
make a search several times longer, and find limiters in code that the app does not run. Large
containers are cut off, which the result reports.
"""

import contextlib
import dis
import gc
import inspect
import sys
import typing
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final

MAX_ENTRIES: Final = 500
"""Entries of one container that are searched, and values that one function names. Containers of
providers and services have tens of entries, as functions have names; thousands are data."""
MAX_VALUES: Final = 20_000
"""Values of one search, which then takes less than a second. An app of 1,000 routes has 12,000."""
_METHODS: Final = ("__init__", "__call__", "__enter__", "__aenter__")
_PACKAGE: Final = "fleetlimit"
_LIBRARIES: Final = frozenset({"contextlib", "fastapi", "starlette", _PACKAGE})
"""Packages whose code does not refer to an object of the app."""
_TYPING: Final = frozenset({"types", "typing"})
_CODE: Final = (
    type,
    FunctionType,
    ModuleType,
    MethodType,
    BuiltinFunctionType,
    MethodWrapperType,
    MethodDescriptorType,
    ClassMethodDescriptorType,
    WrapperDescriptorType,
)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Result of a search.

    Args:
        found: The nearest wanted object; None without one.
        is_complete: Whether no container and no chain of objects was cut off.
    """

    found: Any
    is_complete: bool


def find_reference(roots: Iterable[Any], is_wanted: Callable[[Any], bool]) -> SearchResult:
    """Return the nearest wanted object that functions and callable objects lead to.

    The search ends after `MAX_VALUES` values, and looks at `MAX_ENTRIES` of each container.

    Args:
        roots: Functions, methods, classes and callable objects of an app.
        is_wanted: Whether an object is one to find.
    """
    return _Search(is_wanted).run(roots)


def named_values(function: FunctionType) -> Iterator[Any]:
    """Yield the values that a function names: globals, enclosing ones, and parts of these.

    Parts are attributes of modules, classes and other objects, and entries of dictionaries.
    """
    return _named_values(function, [*_enclosing_values(function)])


def is_instance(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Return whether a value is of a class, by its type alone.

    `isinstance` reads `__class__`, which runs the code of a lazy object.
    """
    return issubclass(type(value), kinds)


class _Search:
    """One search, breadth first: the nearest values come before the bound on their number.

    Args:
        is_wanted: Whether an object is one to find.
    """

    def __init__(self, is_wanted: Callable[[Any], bool]) -> None:
        self._is_wanted = is_wanted
        self._is_complete = True
        self._values_left = MAX_VALUES

    def run(self, roots: Iterable[Any]) -> SearchResult:
        """Search what roots lead to."""
        pending = deque(roots)
        # By identity, because values may compare by their content. They stay referenced here.
        seen: dict[int, Any] = {}
        while pending:
            each = pending.popleft()
            if id(each) in seen:
                continue
            if self._is_wanted(each):
                return SearchResult(each, self._is_complete)
            if self._values_left <= 0:
                return SearchResult(None, is_complete=False)
            self._values_left -= 1
            seen[id(each)] = each
            pending += self._parts(each)
        return SearchResult(None, self._is_complete)

    def _parts(self, value: Any) -> Iterator[Any]:
        """Yield the values that a value refers to."""
        if is_instance(value, partial):
            yield from (value.func, *value.args, *value.keywords.values())
        elif is_instance(value, MethodType) and is_instance(value.__func__, FunctionType):
            yield from self._function_parts(value.__func__, value.__self__)
            yield from self._attributes(value.__self__)
        elif is_instance(value, property):
            yield value.fget
        elif is_instance(value, (classmethod, staticmethod)):
            yield value.__func__
        elif is_instance(value, type):
            yield from (vars(value)[name] for name in _METHODS if name in vars(value))
        elif is_instance(value, FunctionType):
            yield from self._function_parts(value)
        elif type(value).__module__ in _TYPING and typing.get_origin(value) is not None:
            yield from typing.get_args(value)
        elif callable(value) and _package_of(value) not in _LIBRARIES:
            yield type(value)
            yield from self._attributes(value)
            # A built-in one has a `__call__` of its own, and so on.
            call = inspect.getattr_static(type(value), "__call__", None)
            if is_instance(call, FunctionType):
                yield MethodType(call, value)

    def _attributes(self, value: Any) -> Iterator[Any]:
        """Yield the values of an object's attributes, those in slots and of C code included."""
        attributes = self._first(gc.get_referents(value))
        yield from attributes
        for each in attributes:
            for entry in self._entries(each):
                yield entry
                # An object whose `__dict__` was read has its attributes in there.
                yield from self._entries(entry)

    def _entries(self, value: Any) -> list[Any]:
        # Not by the methods of a subclass of `dict`, which may make the values.
        return self._first(dict.values(value)) if is_instance(value, dict) else []

    def _first(self, values: Collection[Any]) -> list[Any]:
        if len(values) > MAX_ENTRIES:
            self._is_complete = False
        return list(islice(values, MAX_ENTRIES))

    def _function_parts(self, function: FunctionType, *owners: Any) -> Iterator[Any]:
        enclosing = [*owners, *_enclosing_values(function)]
        yield from enclosing
        if (wrapped := vars(function).get("__wrapped__")) is not None:
            yield wrapped
        package = _package_of(function)
        if package in _LIBRARIES:
            return
        # An annotation may need a name that is only for editors.
        with contextlib.suppress(Exception):
            yield from inspect.get_annotations(function, eval_str=True).values()
        named = [*islice(_named_values(function, enclosing), MAX_ENTRIES + 1)]
        self._values_left -= len(named)
        for each in self._first(named):
            # The code of other packages does not refer to the app's objects, but a provider of a
            # container may hold one.
            if self._is_wanted(each) or _package_of(each) == package or _is_provider(each):
                yield each


def _is_provider(value: Any) -> bool:
    return (
        callable(value) and not is_instance(value, _CODE) and _package_of(value) not in _LIBRARIES
    )


def _package_of(value: Any) -> str:
    """Return the top-level package of a function, of a class, or of an object's class."""
    if is_instance(value, ModuleType):
        return ""
    if is_instance(value, (property, classmethod, staticmethod)):
        # The function has a package; an attribute of a class of the app's is one of the app's.
        value = value.fget if is_instance(value, property) else value.__func__
    owner = value if is_instance(value, (type, FunctionType)) else type(value)
    # A function that `exec` made has none.
    module = owner.__module__
    return module.partition(".")[0] if is_instance(module, str) else ""


def _enclosing_values(function: FunctionType) -> Iterator[Any]:
    """Yield the values of the variables that a function uses of the functions around it."""
    for cell in function.__closure__ or ():
        # The cell of a variable without a value raises ValueError.
        with contextlib.suppress(ValueError):
            yield cell.cell_contents


def _named_values(function: FunctionType, enclosing: Sequence[Any]) -> Iterator[Any]:
    """Yield what `named_values` does, of a function whose enclosing values are known."""
    pending = deque(enclosing)
    if function.__code__.co_argcount and function.__defaults__:
        pending += function.__defaults__
    for instruction in dis.get_instructions(function):
        if instruction.opname == "LOAD_GLOBAL":
            pending.append(function.__globals__.get(instruction.argval))
        elif instruction.opname == "IMPORT_NAME":
            pending.append(sys.modules.get(instruction.argval))
    code, seen = function.__code__, set()
    while pending:
        value = pending.popleft()
        if value is not None and id(value) not in seen:
            yield value
            seen.add(id(value))
            if is_instance(value, dict):
                # A subclass of `dict` may have methods of its own.
                pending += [
                    dict.__getitem__(value, each)
                    for each in code.co_consts
                    if isinstance(each, str) and dict.__contains__(value, each)
                ]
            elif not is_instance(value, _SCALARS):
                pending += [_get_attribute(value, name) for name in code.co_names]


_SCALARS: Final = (type(None), str, bytes, int, float, FunctionType)


def _get_attribute(value: Any, name: str) -> Any:
    if is_instance(value, ModuleType):
        # This package imports its public names on first use. In other modules `getattr` could
        # import or warn, too, for a name that the function uses elsewhere.
        public = value.__name__ == _PACKAGE
        return getattr(value, name, None) if public else vars(value).get(name)
    # Without running the code of a property or of a container.
    found = inspect.getattr_static(value, name, None)
    is_slot = is_instance(found, MemberDescriptorType) and not is_instance(value, type)
    return getattr(value, name, None) if is_slot else found
