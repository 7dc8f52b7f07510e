"""Components of a policy's key: the properties of a request that buckets are keyed on."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.errors import ConfigError

_NAMELESS_KINDS = frozenset({"principal", "client_address", "route", "global"})
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
"""Name of a path parameter as Starlette accepts it, of bounded length."""
_PARAMETER = re.compile(r"{([A-Za-z_][A-Za-z0-9_]*)(?::[A-Za-z_][A-Za-z0-9_]*)?}", re.ASCII)
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
"""A token of RFC 9110, 5.6.2, of bounded length."""


class KeyKind(StrEnum):
    """Property of a request that buckets can be keyed on."""

    PRINCIPAL = "principal"
    CLIENT_ADDRESS = "client_address"
    HEADER = "header"
    PATH = "path"
    ROUTE = "route"
    GLOBAL = "global"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One component of a policy's key.

    Args:
        kind: Property of a request.
        name: Lower-case name of the header for `header`, name of the path parameter for `path`, and
            the function's name for `function`.
        function: The function of the connection for `function`.
    """

    kind: KeyKind
    name: str = ""
    function: PolicyFunction | None = None

    @classmethod
    def parse(cls, text: str) -> "KeyPart":
        """Parse a component of a key, such as `principal` or `path:<name>`.

        Raises:
            ConfigError: The text is no component; the message lists them.
        """
        kind, colon, name = text.partition(":")
        if kind == KeyKind.HEADER:
            if HEADER_NAME.fullmatch(name):
                return cls(KeyKind.HEADER, name.lower())
        elif kind == KeyKind.PATH:
            if _PARAMETER_NAME.fullmatch(name):
                return cls(KeyKind.PATH, name)
        elif not colon and kind in _NAMELESS_KINDS:
            return cls(KeyKind(kind))
        raise ConfigError(
            f"{text!r} is not a key: write principal, client_address, header:<name>, path:<name>, "
            "route or global"
        )

    @classmethod
    def of(cls, spec: "KeySpec") -> "KeyPart":
        """Return the component that code writes as a text, a function or a parsed component.

        Raises:
            ConfigError: It is none of these.
        """
        if isinstance(spec, str):
            return cls.parse(spec)
        if isinstance(spec, KeyPart):
            return spec
        if not callable(spec):
            raise ConfigError(
                f"{spec!r} is not a key: write principal, client_address, header:<name>, "
                "path:<name>, route, global, or a function of the connection"
            )
        function = PolicyFunction(spec)
        return cls(KeyKind.FUNCTION, function.name, function)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)


def parse_key(key: "KeySpec | Sequence[KeySpec]") -> tuple[KeyPart, ...]:
    """Return the components of a key, which is one component or a sequence.

    Raises:
        ConfigError: A component is invalid.
    """
    if isinstance(key, str | KeyPart) or not isinstance(key, Iterable):
        key = (key,)
    return tuple([KeyPart.of(part) for part in key])


KeySpec = str | KeyPart | Callable[[Any], Any]
"""A component of a key, such as `header:X-Tenant`, the parsed one, or a function."""


def parameter_names(template: str) -> frozenset[str]:
    """Return the names of the path parameters of a route template."""
    return frozenset(_PARAMETER.findall(template))
