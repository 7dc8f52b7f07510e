"""Credentials in request headers, and the reasons for which one is rejected."""

from collections.abc import Mapping
from enum import StrEnum
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


class IdentityErrorReason(StrEnum):
    """A short stable word for logs and responses, bounded in number."""

    ALGORITHM = "algorithm"
    AUDIENCE = "audience"
    CLAIMS = "claims"
    EXPIRED = "expired"
    ISSUER = "issuer"
    KEYS_UNAVAILABLE = "keys_unavailable"
    MALFORMED = "malformed"
    NOT_YET_VALID = "not_yet_valid"
    RESOLVER_FAILED = "resolver_failed"
    SIGNATURE = "signature"
    TOO_LONG = "too_long"
    UNKNOWN_API_KEY = "unknown_api_key"
    UNKNOWN_KEY = "unknown_key"
