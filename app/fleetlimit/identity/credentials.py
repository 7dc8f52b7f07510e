"""Credential headers of a request, and the reasons for rejecting a credential."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from fastapi.security.utils import get_authorization_scheme_param

API_KEY_SCHEME: Final = "APIKey"
"""Scheme of the challenge for an API key, as FastAPI's `APIKeyHeader` sends it."""
BEARER_SCHEME: Final = "Bearer"
DEFAULT_MAX_HEADER_BYTES: Final = 4096
"""Servers accept headers of up to 64 KiB, and the work of a false token grows with its length."""


def first_header(scope: Mapping[str, Any], name: bytes) -> bytes | None:
    """Return the first header line of this name, or None if there is none."""
    for key, value in scope.get("headers", ()):
        if key == name:
            line: bytes = value
            return line
    return None


def read_bearer_token(authorization: bytes) -> str | None:
    """Return the token of an `Authorization` header, or None if its scheme is not Bearer.

    It is empty for a header without a token, which `OAuth2PasswordBearer` accepts.
    """
    return read_scheme(authorization, "bearer")


def read_scheme(header: bytes, scheme: str) -> str | None:
    """Return what follows an authentication scheme, or None if the header has another scheme.

    The installed FastAPI splits the header, so that an app's `HTTPBearer` or
    `OAuth2PasswordBearer` accepts no token that is not read here. Older versions of FastAPI do not
    strip the token; it is always stripped here, because the app may do so.

    Args:
        header: Value of an `Authorization` header, or of one like it.
        scheme: Name of the scheme in lower case.

    Returns:
        The token, decoded as Starlette decodes headers.
    """
    name, token = get_authorization_scheme_param(header.decode("latin-1"))
    # The scheme's name is case-insensitive (RFC 9110 §11.1).
    return token.strip() if name.lower() == scheme else None


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
