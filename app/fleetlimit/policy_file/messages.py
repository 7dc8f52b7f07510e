"""Error messages for policy files: what is wrong with a value, and what to write."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from fleetlimit.core.quota import algorithm_hint

_EXPECTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "path_type": "the path of a file",
    "tuple_type": "a list such as [...]",
    "frozen_set_type": "a list such as [...]",
    "dict_type": "a mapping such as {{...}}",
    "model_type": "a mapping such as {{...}}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "string_too_short": "text of at least {min_length} character",
}
_RENAMED = {("policies", "lease"): "prefetch"}
"""Former names of fields, by section."""
_MISNAMED = {("policies", "when"): "count"}
"""Names that a field could have, by section."""
_MAX_QUOTED = 60
"""Characters of an invalid value that a message repeats."""


def unknown_field(name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown field, with the closest known name."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"write `{near[0]}`" if near else f"write one of {', '.join(names)}"
    return f"there is no field {_quoted(name)} here: {hint}"


def describe_error(detail: ErrorDetails, fields: Mapping[str, Iterable[str]]) -> str:
    """Return the message for a pydantic error, in terms of the file.

    Args:
        detail: One entry of `ValidationError.errors()`.
        fields: Field names by section name.
    """
    *outer, last = ("", *detail["loc"])
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        section = next((part for part in reversed(outer) if isinstance(part, str)), "")
        if renamed := _RENAMED.get((section, str(last))):
            return f"`{last}` is now `{renamed}`: write {renamed}: {_scalar(given)}"
        if name := _MISNAMED.get((section, str(last))):
            return f"`{last}` is called `{name}`: write {name}: {_scalar(given)}"
        return unknown_field(str(last), fields[section])
    if kind == "missing":
        return f"`{last}` is missing: add it"
    if kind == "value_error":
        return str(context["error"])
    hint = algorithm_hint(given) if kind == "enum" and last == "algorithm" else ""
    return f"{_field_name(detail['loc'])} {_mismatch(kind, given, context)}{hint}"


def _mismatch(kind: str, given: Any, context: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, and what it may be."""
    if kind == "empty":
        return "is empty: give it a value or remove the line"
    if kind == "union_tag_not_found":
        return f"must be a mapping such as {{rate: 100/minute}}, not {_quoted(given)}"
    if kind in {"enum", "literal_error"}:
        # Tools that read YAML 1.1 write an unquoted `off` as false.
        quotes = " (`off` needs quotes)" if given is False else ""
        return f"cannot be {_quoted(given)}: write {context['expected']}{quotes}"
    wanted = _EXPECTED.get(kind, "valid text").format(**context)
    return f"must be {wanted}, not {_quoted(given)}"


def _field_name(loc: tuple[int | str, ...]) -> str:
    """Return the field of a value: `limits[0]`, or `the file` at the root."""
    indices = ""
    for part in reversed(loc):
        if isinstance(part, str):
            return f"`{part}{indices}`"
        indices = f"[{part}]{indices}"
    return "the file"


def _scalar(value: Any) -> str:
    """Return a short scalar as it was written, and `...` for any other value."""
    text = str(value)
    return text if isinstance(value, str | int) and len(text) <= _MAX_QUOTED else "..."


def _quoted(value: Any) -> str:
    """Return a value as YAML, shortened."""
    if value is None:
        return "empty"
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."
