"""Values of path parameters before routing, in the spelling that all texts of one value share.

A client may write one value in several ways: `7`, `07` and `+7` are one integer for the endpoint. A
bucket for each spelling would multiply the client's limit. Each value is therefore converted as the
route's convertor and FastAPI's parameter convert it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Protocol
from uuid import UUID

from starlette.convertors import Convertor
from starlette.routing import compile_path
from starlette.types import Scope

from fleetlimit.core.key_parts import parameter_names
from fleetlimit.web.request_target import get_host, get_relative_path

_PARAMETER: Final = re.compile(r"{([A-Za-z_][A-Za-z0-9_]*)((?::[A-Za-z_][A-Za-z0-9_]*)?)}")
_CACHED_TEMPLATES: Final = 1_024
_TEXT_BY_KIND: Final[tuple[tuple[type, Callable[[Any], str]], ...]] = (
    (Enum, lambda value: f"{value.value}"),
    (str, str),
    (int, str),
    (float, str),
    (UUID, str),
    # `1.0` and `1` are equal, and so are two texts of one instant.
    (Decimal, lambda value: str(value.normalize())),
    (datetime, lambda value: (value.astimezone(UTC) if value.tzinfo else value).isoformat()),
    (date, str),
)
"""Text of a converted value, by class. A value of another class is not converted: its text might
contain the address of the object, which differs in each request."""


class Route(Protocol):
    """Route of a request: a `RouteInfo`, whose module imports this one."""

    @property
    def template(self) -> str:
        """Full template; empty where no route matched."""
        ...

    @property
    def host(self) -> str:
        """Pattern of the hosts that serve the route; empty for any."""
        ...

    @property
    def dependant(self) -> Any:
        """FastAPI's tree of the route's dependencies; None for a route of Starlette."""
        ...

    @property
    def endpoint(self) -> Any:
        """Function or app that handles requests; None where no route of the app does."""
        ...

    @property
    def name(self) -> str:
        """Methods and template."""
        ...


def route_parameters(route: Route) -> frozenset[str]:
    """Return the names of the path parameters of a route, those of its host included."""
    return parameter_names(route.host + route.template)


def get_path_values(scope: Scope, route: Route) -> dict[str, str]:
    """Return the path parameters of a request by name, those of its host included.

    Args:
        scope: ASGI scope of the request, before or after routing.
        route: Route of the request.
    """
    values: dict[str, str] = {}
    texts = ((route.host, get_host(scope)), (route.template, get_relative_path(scope)))
    for template, text in texts:
        if not parameter_names(template):
            continue
        pattern, convertors = _compile(template)
        found = pattern.match(text)
        if found is not None:
            values |= {
                name: _convert(convertors[name], found[name])
                for name in convertors
                if found[name] is not None
            }
    declared = values and _declared_parameters(route)
    for name, parameter in (declared or {}).items():
        if name in values:
            values[name] = _validate(parameter, values[name])
    return values


def with_path_params(scope: Scope, route: Route) -> Scope:
    """Return a scope with the path parameters that routing will set, for functions of the app.

    They are those that Starlette sets: converted by the route's convertor, not by an annotation.

    Args:
        scope: ASGI scope of the request, before or after routing.
        route: Route of the request.
    """
    known: Mapping[str, Any] = scope.get("path_params") or {}
    if route_parameters(route) <= known.keys():
        return scope
    found: dict[str, Any] = {}
    texts = ((route.host, get_host(scope)), (route.template, get_relative_path(scope)))
    for template, text in texts:
        pattern, convertors = _compile(template)
        match = pattern.match(text) if convertors else None
        if match is None:
            continue
        for name in convertors:
            # A convertor of the app may raise anything; routing calls it again and raises it.
            with suppress(Exception):
                found[name] = convertors[name].convert(match[name])
    # Both scopes have one state, which the functions and the app may write to.
    scope.setdefault("state", {})
    return {**scope, "path_params": {**found, **known}}


@lru_cache(_CACHED_TEMPLATES)
def _compile(template: str) -> tuple[re.Pattern[str], Mapping[str, Convertor[Any]]]:
    """Return the pattern of a template, and the convertors of its parameters.

    Of parameters with one name, as a mount and a route may have, Starlette passes the last one.
    """
    last = {found[1]: found.start() for found in _PARAMETER.finditer(template)}

    def rename(found: re.Match[str]) -> str:
        if last[found[1]] == found.start():
            return found[0]
        return f"{{_{found.start()}_{found[1]}{found[2]}}}"

    pattern, _, convertors = compile_path(_PARAMETER.sub(rename, template))
    return pattern, {name: each for name, each in convertors.items() if name in last}


def _convert(convertor: Convertor[Any], text: str) -> str:
    try:
        return convertor.to_string(convertor.convert(text))
    except Exception:  # noqa: BLE001 - a convertor of the app may raise anything
        return text


def _declared_parameters(route: Route) -> dict[str, Any]:
    """Return FastAPI's path parameters by name; those of the endpoint before its dependencies'."""
    found: dict[str, Any] = {}
    for dependant in _dependants(route.dependant):
        for each in dependant.path_params:
            found.setdefault(each.alias, each)
    return found


def _dependants(dependant: Any) -> Iterator[Any]:
    if dependant is not None:
        yield dependant
        for each in dependant.dependencies:
            yield from _dependants(each)


def _validate(parameter: Any, text: str) -> str:
    """Return the text of the value that FastAPI passes; the same text if it is invalid."""
    try:
        value, errors = parameter.validate(text, {}, loc=("path", parameter.alias))
    except Exception:  # noqa: BLE001 - a validator of the app may raise anything
        return text
    if errors:
        return text
    for kind, to_text in _TEXT_BY_KIND:
        if isinstance(value, kind):
            return to_text(value)
    return text
