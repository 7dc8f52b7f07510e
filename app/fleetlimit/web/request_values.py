"""Values of one request for keys that are made from its path, or by functions of the app."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.subject import NO_HEADERS, KeyValues
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import call_function, require_function
from fleetlimit.web.path_values import Route, get_path_values, route_parameters

MAX_KEY_CHARS: Final = 65_536
"""Longest result of a key function, about the headers of a request together. Keys are hashed, and a
hash of megabytes would delay all requests of the process."""
_ROLE: Final = "key function"


def require_key_functions(policy: Policy) -> None:
    """Check that the functions of a policy's key can be called with a connection.

    Raises:
        ConfigError: One cannot; the message says what to write.
    """
    for each in policy.key_functions:
        require_function(
            each.call, role=_ROLE, returns=(str,), example="def key(connection) -> str"
        )


def require_path_parameters(policy: Policy, route: Route) -> None:
    """Check that a route has the path parameters of a policy's key.

    Paths that no route takes have none: such requests share the bucket of their caller.

    Raises:
        ConfigError: The route lacks one.
    """
    if not policy.key_paths or route.endpoint is None:
        return
    if missing := sorted(policy.key_paths - route_parameters(route)):
        raise ConfigError(
            f"policy {policy.name} is keyed on path:{missing[0]}, which {route.name} does not "
            f"have: write a route such as /items/{{{missing[0]}}}, another key, or a `match` "
            "without this route"
        )


@dataclass(frozen=True, slots=True)
class KeySources:
    """What the keys of some policies are made from, besides headers and the identity.

    Args:
        policies: The policies with a path parameter in their key.
        functions: The functions of all keys, each once.
    """

    policies: tuple[Policy, ...]
    functions: tuple[PolicyFunction, ...]

    @classmethod
    def of(cls, policies: Iterable[Policy]) -> "KeySources | None":
        """Return the sources of the keys of these policies; None if there is none."""
        active = [policy for policy in policies if policy.mode is not Mode.OFF]
        with_path = tuple(policy for policy in active if policy.key_paths)
        functions = tuple(dict.fromkeys(each for policy in active for each in policy.key_functions))
        return cls(with_path, functions) if with_path or functions else None

    async def resolve(self, scope: Scope, route: Route, timeout_s: float) -> KeyValues:
        """Return the values of a request.

        Args:
            scope: ASGI scope of the request.
            route: Route of the request.
            timeout_s: Seconds that an async function may take.

        Raises:
            ConfigError: The route lacks a path parameter of a key.
            TimeoutError: A function did not return in time.
            TypeError: A function returned no text.
            ValueError: A function returned a text of more than `MAX_KEY_CHARS` characters.
        """
        for policy in self.policies:
            require_path_parameters(policy, route)
        path = get_path_values(scope, route) if self.policies else NO_HEADERS
        functions: dict[PolicyFunction, str] = {}
        for function in self.functions:
            connection = get_connection(scope)
            returned = await call_function(function.call, connection, _ROLE, timeout_s)
            functions[function] = _check_key(function, returned)
        return KeyValues(path, functions)


def get_connection(scope: Scope) -> HTTPConnection:
    """Return the connection that functions of the app receive.

    It is a `Request`, whose body cannot be read, or the `HTTPConnection` of a WebSocket.
    """
    return Request(scope) if scope["type"] == "http" else HTTPConnection(scope)


def _check_key(function: PolicyFunction, returned: Any) -> str:
    if not isinstance(returned, str):
        kind = "None" if returned is None else type(returned).__name__
        raise TypeError(
            f"the key function {function.name} returned {kind}: return str, for a request without "
            "the value too"
        )
    if len(returned) > MAX_KEY_CHARS:
        raise ValueError(
            f"the key function {function.name} returned {len(returned):,} characters: return at "
            f"most {MAX_KEY_CHARS:,}"
        )
    # A subclass may have a text of its own.
    return str.__str__(returned)
