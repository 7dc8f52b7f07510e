"""Decorators and arguments of slowapi as the arguments of `RateLimit`."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from fleetlimit.migrate.rates import Rate, parse_limits
from fleetlimit.migrate.source import (
    Function,
    Note,
    Source,
    argument,
    constant,
    parameter_count,
    text_constant,
)

ALGORITHMS: Final = {
    "fixed-window": "fixed_window",
    "fixed-window-elastic-expiry": "fixed_window",
    "moving-window": "sliding_log",
    "sliding-window-counter": "sliding_window",
}
"""Strategies of `limits`, by the algorithm that counts in the same way."""
_ADDRESS_FUNCTIONS: Final = frozenset(
    {"slowapi.util.get_remote_address", "slowapi.util.get_ipaddr"}
)
_PARAMETERS: Final = (
    *("limit_value", "key_func", "per_method", "methods"),
    *("error_message", "exempt_when", "cost", "override_defaults"),
)
_SHARED_PARAMETERS: Final = (
    *("limit_value", "scope", "key_func", "error_message"),
    *("exempt_when", "cost", "override_defaults"),
)


@dataclass(slots=True)
class Key:
    """Key of a limit.

    Args:
        part: Part of a key, such as `header:X-API-Key`; empty for a function.
        function: Expression of a function of the connection.
        source: File in which the function's name is known; None for an expression of any file.
    """

    part: str = ""
    function: str = ""
    source: Source | None = None

    @property
    def argument(self) -> str:
        """The argument `key`, with a comma before it; empty for the default key."""
        if self.part:
            return "" if self.part == "principal" else f', key="{self.part}"'
        return f", key={self.function}"


@dataclass(slots=True)
class LimiterSetup:
    """A `Limiter(...)` of slowapi.

    Args:
        source: The file.
        name: Name that it is assigned to.
        call: The call.
        key: Its key function.
        algorithm: Algorithm of its strategy; empty if the call names none.
    """

    source: Source
    name: str
    call: ast.Call
    key: Key = field(default_factory=lambda: Key("principal"))
    algorithm: str = ""


@dataclass(slots=True)
class TranslatedLimit:
    """A decorator of slowapi, translated.

    Args:
        calls: Expressions such as `RateLimit("5/minute")`.
        notes: What has no translation.
        differences: What behaves differently.
        overrides_defaults: Whether the limit replaces the default limits of the limiter.
    """

    calls: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    differences: list[Note] = field(default_factory=list)
    overrides_defaults: bool = True


class SharedNames:
    """Names of shared limits: slowapi counts different rates of one scope apart."""

    def __init__(self) -> None:
        self._rates: dict[str, list[str]] = {}

    def name(self, scope: str, rate: str) -> str:
        """Return the name of a limit with this scope and rate."""
        rates = self._rates.setdefault(scope, [])
        if rate not in rates:
            rates.append(rate)
        base = "".join(each if each.isalnum() or each in "_-./" else "-" for each in scope)
        index = rates.index(rate)
        return base if index == 0 else f"{base}-{index + 1}"


def translate_key(source: Source, node: ast.expr | None) -> Key:
    """Return the key of a key function; the caller's address, or its principal, without one."""
    if node is None or source.full_name(node) in _ADDRESS_FUNCTIONS:
        return Key("principal")
    body = node.body if isinstance(node, ast.Lambda) else _returned(_defined(source, node))
    if header := _header(body):
        return Key(f"header:{header}")
    if text_constant(body) is not None:
        return Key("global")
    if isinstance(node, ast.Lambda):
        code = ast.unparse(node)
        return Key("", code if parameter_count(node) else code.replace("lambda", "lambda _", 1))
    function = _defined(source, node)
    code = source.code(node)
    if function is not None and parameter_count(function) == 0:
        code = f"lambda _: {code}()"
    return Key("", code, source)


def _defined(source: Source, node: ast.expr | None) -> Function | None:
    return source.function(node.id) if isinstance(node, ast.Name) else None


def _returned(function: Function | None) -> ast.expr | None:
    """Return what a function of one statement returns; None for any other."""
    if function is None or function.decorator_list:
        return None
    body = [each for each in function.body if not _is_docstring(each)]
    return body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _header(node: ast.expr | None) -> str | None:
    """Return the header that an expression reads, as `request.headers["X-API-Key"]`."""
    if isinstance(node, ast.Subscript):
        found, name = node.value, text_constant(node.slice)
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and len(node.args) == 1
    ):
        found, name = node.func.value, text_constant(node.args[0])
    else:
        return None
    is_headers = isinstance(found, ast.Attribute) and found.attr == "headers"
    return name if is_headers and isinstance(found.value, ast.Name) else None  # type: ignore[attr-defined]  # an attribute


def rates_of(source: Source, node: ast.expr | None) -> list[Rate] | None:
    """Return the rates of a constant, or of a name with a constant at the top level of the file."""
    text = text_constant(node)
    if text is None and isinstance(node, ast.Name):
        values = [
            each.value
            for each in source.tree.body
            if isinstance(each, ast.Assign) and node.id in map(ast.unparse, each.targets)
        ]
        text = text_constant(values[0]) if len(values) == 1 else None
    return parse_limits(text) if text is not None else None


def translate_limit(
    source: Source,
    call: ast.Call,
    setup: LimiterSetup | None,
    methods: frozenset[str],
    shared: SharedNames,
) -> TranslatedLimit:
    """Translate `@limiter.limit(...)` or `@limiter.shared_limit(...)`.

    Args:
        source: The file.
        call: The decorator.
        setup: The limiter; None if it is in no file that was read.
        methods: Methods of the route; empty if they are not known.
        shared: Names of the shared limits of all files.
    """
    result = TranslatedLimit()
    is_shared = isinstance(call.func, ast.Attribute) and call.func.attr == "shared_limit"
    names = _SHARED_PARAMETERS if is_shared else _PARAMETERS
    given = {
        name: node
        for position, name in enumerate(names)
        if (node := argument(call, name, position)) is not None
        and not (isinstance(node, ast.Constant) and node.value is None)
    }
    result.overrides_defaults = constant(given.get("override_defaults")) is not False
    rates = rates_of(source, given.get("limit_value"))
    if rates is None:
        result.notes.append(_note_of_value(source, call, given.get("limit_value")))
        return result
    result.notes += _notes(source, call, given, methods)
    if is_shared and text_constant(given.get("scope")) is None:
        result.notes.append(
            source.note(call, "the scope is no constant text: write RateLimit(..., name=...)")
        )
        return result
    result.differences += _differences(source, call, rates)
    for rate in rates:
        options = _options(source, given, setup)
        if is_shared:
            options += f', name="{shared.name(text_constant(given["scope"]) or "", rate.text)}"'
        result.calls.append(f'RateLimit("{rate.text}"{options})')
    return result


def _options(source: Source, given: dict[str, ast.expr], setup: LimiterSetup | None) -> str:
    own_key = given.get("key_func")
    key = translate_key(source, own_key) if own_key or setup is None else setup.key
    if own_key and source.full_name(own_key) in _ADDRESS_FUNCTIONS and setup is not None:
        # The limiter identifies callers in another way, and this limit counts by address.
        key = key if setup.key.part == "principal" else Key("client_address")
    options = key.argument
    if setup is not None and setup.algorithm:
        options = f', algorithm="{setup.algorithm}"{options}'
    if (cost := given.get("cost")) is not None and constant(cost) != 1:
        options += f", cost={source.code(cost)}"
    if (exempt := given.get("exempt_when")) is not None:
        options += f", exempt={_function_of_connection(source, exempt)}"
    return options


def _function_of_connection(source: Source, node: ast.expr) -> str:
    """Return an expression of a function that accepts the connection."""
    code = ast.unparse(node) if isinstance(node, ast.Lambda) else source.code(node)
    if isinstance(node, ast.Lambda):
        return code if parameter_count(node) else code.replace("lambda", "lambda _", 1)
    function = _defined(source, node)
    if function is not None and parameter_count(function) == 0:
        return f"lambda _: {code}()"
    return code


def _note_of_value(source: Source, call: ast.Call, value: ast.expr | None) -> Note:
    text = text_constant(value)
    if text is not None:
        return source.note(call, f"{text!r} is not a rate, or allows nothing: write 5/minute")
    if isinstance(value, ast.Lambda) or _defined(source, value) is not None:
        code = source.code(value) if value is not None else ""
        return source.note(
            call,
            "a limit from a function: write Depends(RateLimit(function, default=...)) on the "
            f"route, where the function of the connection returns what {code} returns",
        )
    return source.note(
        call,
        "the rate is no constant in this file: write Depends(RateLimit(...)) on the route with "
        "one rate, such as 5/minute, or a list of several Depends. For a function, write "
        'RateLimit(function, default="5/minute"), with a function of the connection, or '
        "Fleetlimit(limits=...)",
    )


def _notes(
    source: Source,
    call: ast.Call,
    given: dict[str, ast.expr],
    methods: frozenset[str],
) -> Iterator[Note]:
    if "error_message" in given:
        yield source.note(
            call, "error_message: write Fleetlimit(on_rejected=...), which may change the response"
        )
    if (limited := given.get("methods")) is not None:
        texts = (
            {(text_constant(each) or "").upper() for each in limited.elts}
            if isinstance(limited, ast.List | ast.Tuple | ast.Set)
            else set()
        )
        if not methods or not methods <= texts:
            yield source.note(
                call,
                "methods: the limit now applies to all methods of the route; for some of them, "
                "write a policy with match: {methods: [...], routes: [...]}",
            )
    if constant(given.get("per_method")) is True and len(methods) != 1:
        yield source.note(
            call, "per_method: the methods of a route share a bucket; write a route for each"
        )
    if any(isinstance(each, ast.Starred) for each in call.args) or any(
        each.arg is None for each in call.keywords
    ):
        yield source.note(call, "arguments from * or ** are not known: compare them")
    cost = given.get("cost")
    if cost is not None and not isinstance(constant(cost), int):
        function = _defined(source, cost)
        if function is not None and parameter_count(function) != 1:
            yield source.note(call, "cost: the function must accept one argument, the connection")


def _differences(source: Source, call: ast.Call, rates: Sequence[Rate]) -> Iterator[Note]:
    for rate in rates:
        if rate.unit in {"month", "year"}:
            yield source.note(
                call,
                f"a {rate.unit} is {rate.text.partition(' per ')[2]}, as before; "
                f"`/{rate.unit}` is one of the calendar",
            )
