"""Search of code for an object that it refers to, without running the code.

It does not find an object that is imported from a module that is not loaded yet, or that a name
computed at run time leads to.
"""

import contextlib
import dis
import gc
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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

_ENTRIES: Final = ("__init__", "__call__", "__enter__", "__aenter__")
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


def find_reference(roots: Iterable[Any], is_wanted: Callable[[Any], bool]) -> Any:
    """Return the first wanted object that functions and callable objects lead to, or None.

    Args:
        roots: Functions, methods, classes and callable objects of an app.
        is_wanted: Whether an object is one to find.
    """
    pending = [*roots]
    # By identity, because values may compare by their content. They stay referenced here.
    seen: dict[int, Any] = {}
    while pending:
        each = pending.pop()
        if is_wanted(each):
            return each
        if id(each) not in seen:
            seen[id(each)] = each
            pending += _parts(each, is_wanted)
    return None


def is_instance(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Return whether a value is of a class, by its type alone.

    `isinstance` reads `__class__`, which runs the code of a lazy object.
    """
    return issubclass(type(value), kinds)


def _parts(value: Any, is_wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield the values that a value refers to."""
    if is_instance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif is_instance(value, MethodType) and is_instance(value.__func__, FunctionType):
        yield from _function_parts(value.__func__, is_wanted, value.__self__)
        yield from _attributes(value.__self__)
    elif is_instance(value, property):
        yield value.fget
    elif is_instance(value, (classmethod, staticmethod)):
        yield value.__func__
    elif is_instance(value, type):
        yield from (vars(value)[name] for name in _ENTRIES if name in vars(value))
    elif is_instance(value, FunctionType):
        yield from _function_parts(value, is_wanted)
    elif type(value).__module__ in _TYPING and typing.get_origin(value) is not None:
        yield from typing.get_args(value)
    elif callable(value) and _package_of(value) not in _LIBRARIES:
        yield from (type(value), *_attributes(value))
        # A built-in one has a `__call__` of its own, and so on.
        call = inspect.getattr_static(type(value), "__call__", None)
        if is_instance(call, FunctionType):
            yield MethodType(call, value)


def _attributes(value: Any) -> list[Any]:
    """Return the values of an object's attributes, those in slots and of C code included."""
    own = gc.get_referents(value)
    return [*own, *(each for one in own if is_instance(one, dict) for each in one.values())]


def _function_parts(
    function: FunctionType, is_wanted: Callable[[Any], bool], *owners: Any
) -> Iterator[Any]:
    enclosing = [*owners, *_enclosing_values(function)]
    yield from enclosing
    if (wrapped := vars(function).get("__wrapped__")) is not None:
        yield wrapped
    package = _package_of(function)
    if package in _LIBRARIES:
        return
    with contextlib.suppress(Exception):  # an annotation may need a name that is only for editors
        yield from inspect.get_annotations(function, eval_str=True).values()
    for each in _named_values(function, enclosing):
        # The code of other packages does not refer to the app's objects, but a provider of a
        # container may hold one.
        if is_wanted(each) or _package_of(each) == package or _is_provider(each):
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
    """Yield the values that a function names: globals, enclosing ones, and parts of these.

    Parts are attributes of modules, classes and other objects, and entries of dictionaries.
    """
    pending = [*enclosing]
    if function.__code__.co_argcount and function.__defaults__:
        pending += function.__defaults__
    for instruction in dis.get_instructions(function):
        if instruction.opname == "LOAD_GLOBAL":
            pending.append(function.__globals__.get(instruction.argval))
        elif instruction.opname == "IMPORT_NAME":
            pending.append(sys.modules.get(instruction.argval))
    code, seen = function.__code__, set()
    while pending:
        value = pending.pop()
        yield value
        if id(value) not in seen:
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
