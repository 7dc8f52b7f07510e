"""Credential headers of a request, and the reasons for rejecting a credential."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


def first_header(scope: Mapping[str, Any], name: bytes) -> bytes | None:
    """Return the first header line of this name, or None if there is none."""
    for key, value in scope.get("headers", ()):
        if key == name:
            line: bytes = value
            return line
    return None


def header_lines(scope: Mapping[str, Any], name: bytes) -> list[bytes]:
    """Return all header lines of this name, in the order received."""
    return [value for key, value in scope.get("headers", ()) if key == name]


class IdentityErrorReason(StrEnum):
    """Reason of an `IdentityError`: a stable word for logs and responses."""

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
