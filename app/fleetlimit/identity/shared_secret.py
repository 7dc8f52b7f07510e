"""Shared secret of a token issuer (HS256, HS384, HS512; RFC 7518 §3.2) from a file. Needs PyJWT.

Everyone who has the secret can sign tokens. It is a source of its own, so that a public key can
never be used as a secret: an issuer has either public keys or a secret, and algorithms of that kind
only.
"""

import json
import re
from pathlib import Path
from typing import Final

from fleetlimit.errors import ConfigError
from fleetlimit.identity.jwks import VerifyingKey
from fleetlimit.strict_yaml import read

_MIN_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The size of the hash: RFC 7518 §3.2 requires a secret of at least that length."""
SECRET_ALGORITHMS: Final = frozenset(_MIN_BYTES)
"""All supported algorithms of a shared secret."""
_MAX_BYTES: Final = 4096
_TEXT = re.compile(rb"[!-~]+")
_PUBLIC_KEY = re.compile(rb"-----BEGIN |(?:ssh|ecdsa)-")
_HOW_TO_MAKE: Final = "make one with `openssl rand -base64 48`"


class SharedSecret:
    """Source of the one key that signs and verifies an issuer's tokens.

    The secret is the text of the file without the line break at its end. Its bytes are used as they
    are: base64 is not decoded.

    Args:
        file: The file.

    Raises:
        ConfigError: The file cannot be read, is a public key, or has no secret of 32 characters or
            more. The message does not contain the secret.
    """

    def __init__(self, file: str | Path) -> None:
        secret = read(Path(file), max_bytes=_MAX_BYTES).strip(b"\r\n")
        if _is_public_key(secret):
            raise ConfigError(
                f"{file} is a key of another kind, which its readers could sign with: write "
                "`jwks` in place of `secret_file`"
            )
        if not _TEXT.fullmatch(secret):
            raise ConfigError(f"{file} is not one line of text without blanks: {_HOW_TO_MAKE}")
        algorithms = frozenset(each for each in _MIN_BYTES if len(secret) >= _MIN_BYTES[each])
        if not algorithms:
            raise ConfigError(
                f"{file} has {len(secret)} characters, and a secret needs 32 or more: "
                f"{_HOW_TO_MAKE}"
            )
        self._key = VerifyingKey(None, algorithms, secret)
        self._file = file

    def require(self, algorithm: str) -> None:
        """Check that the secret is long enough for an algorithm.

        Raises:
            ConfigError: It is not.
        """
        if algorithm not in self._key.algorithms:
            raise ConfigError(
                f"{self._file} is too short for {algorithm}, which needs {_MIN_BYTES[algorithm]} "
                f"characters or more: {_HOW_TO_MAKE}"
            )

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:  # noqa: ARG002 - a port
        """Return the secret. A `kid` is the issuer's own name for it."""
        return self._key


def _is_public_key(secret: bytes) -> bool:
    if _PUBLIC_KEY.match(secret):
        return True
    try:
        return isinstance(json.loads(secret), dict)
    except (ValueError, RecursionError):
        return False
