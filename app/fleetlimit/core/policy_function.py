"""Functions of the app that are part of a policy, compared by their code.

A policy compares equal to another one with the same limits. Functions compare by identity in
Python, so that the same lambda written on two routes would make two different policies. Here two
functions are equal if they have the same module, code, defaults and closure.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from types import BuiltinMethodType, CodeType, FunctionType, MethodType
from typing import Any, Final

_MAX_DEPTH: Final = 6
"""Levels of functions in closures that are compared: a function may be in its own closure."""
_DIGEST_CHARS: Final = 8
"""Hexadecimal digits of the hash in the name of a function that has no name of its own."""
_CONSTANTS: Final = (str, bytes, int, float, complex, type(None), type(...))


class PolicyFunction:
    """Function of the app with a name that is the same in all processes of a release.

    Args:
        call: The function, or an object that can be called.

    Attributes:
        call: The function.
        name: Module and qualified name, with a hash of the code for a lambda or a local function.
    """

    __slots__ = ("_identity", "call", "name")

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call: Final = call
        self.name: Final = _name_of(call)
        self._identity: Final = _fingerprint(call, id, _MAX_DEPTH)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PolicyFunction) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name


def _name_of(call: Any) -> str:
    inner = call
    while isinstance(inner, partial):
        inner = inner.func
    inner = inner if hasattr(inner, "__qualname__") else type(inner)
    name = f"{inner.__module__}.{inner.__qualname__}"
    if inner is call and "<" not in name:
        return name
    digest = hashlib.sha256(repr(_fingerprint(call, _type_name, _MAX_DEPTH)).encode())
    return f"{name}-{digest.hexdigest()[:_DIGEST_CHARS]}"


def _type_name(value: object) -> str:
    return type(value).__qualname__


def _fingerprint(value: Any, opaque: Callable[[Any], object], depth: int) -> object:
    """Return a value that is equal for equal functions.

    Args:
        value: A function, or a part of one.
        opaque: Returns what stands for an object whose contents are not compared.
        depth: Levels below which contents are not compared.
    """
    if isinstance(value, _CONSTANTS):
        return (type(value).__qualname__, repr(value))
    if isinstance(value, tuple):
        return tuple([_fingerprint(part, opaque, depth) for part in value])
    if not depth:
        return opaque(value)

    def inner(part: Any) -> object:
        return _fingerprint(part, opaque, depth - 1)

    parts = _parts(value)
    if parts is not None:
        return tuple(map(inner, parts))
    if isinstance(value, MethodType):
        return (inner(value.__func__), opaque(value.__self__))
    return opaque(value)


def _parts(value: Any) -> tuple[object, ...] | None:
    """Return what makes two functions, or parts of functions, equal; None for another object."""
    match value:
        case frozenset():
            return tuple(sorted(value, key=repr))
        case CodeType():
            counts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount)
            names = (value.co_names, value.co_varnames, value.co_freevars)
            return (value.co_code, value.co_consts, counts, value.co_flags, names)
        case FunctionType():
            defaults = (value.__defaults__, *(value.__kwdefaults__ or {}).items())
            closure = tuple(map(_contents, value.__closure__ or ()))
            return (value.__module__, value.__qualname__, value.__code__, defaults, closure)
        case BuiltinMethodType():
            return (value.__qualname__, value.__self__)
        case partial():
            return ("partial", value.func, value.args, tuple(sorted(value.keywords.items())))
    return None


def _contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        # A variable that is not assigned yet.
        return None
