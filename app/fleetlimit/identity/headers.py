"""Reads request headers from an ASGI scope, whose names are lower-case bytes."""

from collections.abc import Mapping
from typing import Any


def first_header(scope: Mapping[str, Any], name: bytes) -> bytes | None:
    """Return the first line of this name, or None without one."""
    for key, value in scope.get("headers", ()):
        if key == name:
            line: bytes = value
            return line
    return None


def header_lines(scope: Mapping[str, Any], name: bytes) -> list[bytes]:
    """Return every line of this name, in the order received."""
    return [value for key, value in scope.get("headers", ()) if key == name]
