"""Verifier of API keys against a file of their SHA-256 hashes."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from fleetlimit.core.key_parts import HEADER_NAME
from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.credentials import (
    API_KEY_SCHEME,
    BEARER_SCHEME,
    IdentityErrorReason,
    first_header,
    read_scheme,
)
from fleetlimit.strict_yaml import Document, DocumentErrors, parse, read

MAX_KEY_BYTES = 1024
MAX_FILE_BYTES = 2**24
"""Enough for 100,000 keys."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}", re.ASCII)
_JWT = re.compile(rb"[\w-]+\.[\w-]*\.[\w-]*")
"""A token in compact form (RFC 7515 §3.1), whose header is not empty."""
_SHA256_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


def _sha256_hex(text: str) -> str:
    if not _SHA256_HEX.fullmatch(text.lower()):
        raise PydanticCustomError(
            "sha256",
            "not 64 hex digits; if this is the key itself, replace it and write the hash: "
            'printf %s "$KEY" | sha256sum',
        )
    return text.lower()


class KeyEntry(BaseModel):
    """One API key: its SHA-256 in hex, its principal and its tier."""

    # A principal that looks like a number stays text, as written.
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, coerce_numbers_to_str=True
    )

    sha256: Annotated[str, AfterValidator(_sha256_hex)]
    principal: str = Field(min_length=1, max_length=256)
    tier: str | None = Field(default=None, max_length=64)


class KeyFile(BaseModel):
    """A file of API keys: `keys: [{sha256: ..., principal: alice, tier: pro}]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys: tuple[KeyEntry, ...]


@dataclass(frozen=True, slots=True)
class _KnownKey:
    digest: bytes
    principal: Principal


class ApiKeyVerifier:
    """Verifier of API keys.

    A plain SHA-256 is enough for random keys. It does not protect a password that can be guessed.

    Args:
        file: Key file, YAML or JSON.
        header: Request header that carries the key.
        scheme: Authentication scheme that precedes the key in the header, such as `Bearer`; empty
            for a header that is the key alone.
        accepts_tokens: Whether another verifier reads the tokens of that header. An unknown key
            that has the form of a JSON Web Token is then left to it.

    Raises:
        ConfigError: The header name, the scheme or the file is invalid.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        header: str = "X-API-Key",
        scheme: str = "",
        accepts_tokens: bool = False,
    ) -> None:
        if not HEADER_NAME.fullmatch(header):
            raise ConfigError(f"{header!r} is not a header name: write X-API-Key")
        if scheme and not _SCHEME.fullmatch(scheme):
            raise ConfigError(f"{scheme!r} is not an authentication scheme: write Bearer")
        self.file = Path(file)
        self._header = header.lower().encode()
        self._scheme = scheme.lower()
        is_bearer = self._scheme == BEARER_SCHEME.lower()
        self._challenge = BEARER_SCHEME if is_bearer else scheme or API_KEY_SCHEME
        self._accepts_tokens = accepts_tokens and is_bearer and self._header == b"authorization"
        self._known = _load(self.file)

    @property
    def known_tiers(self) -> frozenset[str]:
        """Tiers of the keys."""
        return frozenset(each.principal.tier for each in self._known.values())

    async def resolve(self, scope: Mapping[str, Any]) -> Principal | None:
        """Return the principal of the request's key, or None if there is no key.

        Raises:
            IdentityError: The key is unknown or too long.
        """
        key = first_header(scope, self._header)
        if key and self._scheme:
            # `latin-1` gives back the bytes that it was decoded from.
            key = (read_scheme(key, self._scheme) or "").encode("latin-1")
        if not key:
            return None
        fits = len(key) <= MAX_KEY_BYTES
        known = self._find(key) if fits else None
        if known is not None:
            return known.principal
        if self._accepts_tokens and _JWT.fullmatch(key):
            return None
        raise IdentityError(
            "the API key is not known"
            if fits
            else f"the API key is longer than {MAX_KEY_BYTES} bytes",
            reason=IdentityErrorReason.UNKNOWN_API_KEY if fits else IdentityErrorReason.TOO_LONG,
            scheme=self._challenge,
        )

    def _find(self, key: bytes) -> _KnownKey | None:
        digest = hashlib.sha256(key).digest()
        known = self._known.get(digest)
        # The lookup's timing leaks bits of the digest, which a client cannot control without
        # inverting SHA-256. The comparison of the full digest takes constant time.
        return known if known and hmac.compare_digest(known.digest, digest) else None


def load_entries(path: Path, raw: bytes | None = None) -> tuple[KeyEntry, ...]:
    """Return the entries of a key file.

    Args:
        path: The file.
        raw: Text in place of that of the file.

    Raises:
        ConfigError: The file cannot be read, or is invalid.
    """
    document = _parse(path, raw)
    _known_keys(document)
    return _entries(document)


def _load(path: Path) -> dict[bytes, _KnownKey]:
    return _known_keys(_parse(path))


def _parse(path: Path, raw: bytes | None = None) -> Document:
    return parse(read(path, max_bytes=MAX_FILE_BYTES) if raw is None else raw, str(path))


def _known_keys(document: Document) -> dict[bytes, _KnownKey]:
    errors = list(document.errors)
    known: dict[bytes, _KnownKey] = {}
    first_index: dict[bytes, int] = {}
    for index, entry in enumerate(_entries(document)):
        digest = bytes.fromhex(entry.sha256)
        if digest in known:
            message = (
                f"keys[{index}] has the same hash as keys[{first_index[digest]}]: remove one of "
                "them"
            )
            errors.append(document.error(message, ("keys", index)))
        first_index.setdefault(digest, index)
        principal = Principal(entry.principal, entry.tier or "", source="api_key")
        known[digest] = _KnownKey(digest, principal)
    if errors:
        raise DocumentErrors(errors)
    return known


def _entries(document: Document) -> tuple[KeyEntry, ...]:
    try:
        return KeyFile.model_validate(document.data).keys
    except ValidationError as error:
        # Messages contain neither values nor unknown names: either may be a misplaced key.
        found = (
            document.error(_describe(detail["loc"], detail), detail["loc"])
            for detail in error.errors(include_input=False, include_url=False)
        )
        raise DocumentErrors([*document.errors, *found]) from None


def _describe(location: tuple[str | int, ...], detail: Mapping[str, Any]) -> str:
    if detail["type"] == "extra_forbidden":
        known = ", ".join(KeyEntry.model_fields if len(location) > 1 else KeyFile.model_fields)
        return f"an unknown field: write one of {known}"
    if not location:
        return "write `keys:` and a list of {sha256, principal, tier} under it"
    return f"{'.'.join(map(str, location))}: {detail['msg']}"
