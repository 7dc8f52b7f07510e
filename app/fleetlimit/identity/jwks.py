"""Public keys of a token issuer, from a file or a JWKS URL (RFC 7517). Needs PyJWT.

The last good keys stay in use while a fetch fails.
"""

import asyncio
import ipaddress
import json
import logging
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.to_thread
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.credentials import BEARER_SCHEME, IdentityErrorReason
from fleetlimit.strict_yaml import read

MAX_DOCUMENT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Reject redirects: one could lead from https to http."""


def fetch_document(
    url: str, timeout: float, *, clock: Callable[[], float] = time.monotonic
) -> bytes:
    """Return the document. Blocks, so call it in a thread.

    Args:
        url: An http or https URL; the environment's proxy settings apply.
        timeout: Seconds for each step of the connection, and for the whole body.
        clock: Monotonic seconds.

    Raises:
        OSError: The server is unreachable, too slow, or replied with an error.
        ValueError: The document is too large.
    """
    deadline = clock() + timeout
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        response = opener.open(url, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"the server answered {error.code}") from None
    body = bytearray()
    with response:
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
            if clock() > deadline:
                raise TimeoutError("the document did not arrive in time")
    return bytes(body)


PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_MIN_RSA_BITS = 2048
"""RFC 7518 §3.3."""
_FAMILIES = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
ALGORITHMS = frozenset(name for family in _FAMILIES.values() for name in family)
"""All supported signature algorithms."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key or a shared secret, its id if any, and the algorithms that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    key: PublicKey | bytes


class JwkSet:
    """An immutable set of public keys."""

    def __init__(self, keys: tuple[VerifyingKey, ...]) -> None:
        self.keys = keys

    @classmethod
    def parse(cls, document: bytes) -> "JwkSet":
        """Parse a JWKS document, ignoring keys that cannot or must not verify a token.

        Raises:
            ConfigError: The document is not a JWKS, or has no usable key.
        """
        try:
            entries = json.loads(document)["keys"]
            keys = tuple(key for entry in entries if (key := _parse_jwk(entry)))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError('not a JWKS: write {"keys": [...]} (RFC 7517)') from None
        if not keys:
            raise ConfigError(
                "no key that can verify tokens: write public RSA (2048 bits or more), EC or "
                "Ed25519 keys"
            )
        return cls(keys)

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Return the key with this id for this algorithm, or None.

        For a token without an id, return the key for its algorithm if there is exactly one.
        """
        found = [key for key in self.keys if algorithm in key.algorithms]
        if kid is None:
            return found[0] if len(found) == 1 else None
        return next((key for key in found if key.kid == kid), None)


def _parse_jwk(entry: Any) -> VerifyingKey | None:
    """Return the key of an entry; None if it must be ignored (RFC 7517 §5)."""
    try:
        return _verifying_key(entry) if isinstance(entry, dict) else None
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None


def _verifying_key(entry: dict[str, Any]) -> VerifyingKey | None:
    kind = entry.get("kty")
    family = _FAMILIES.get(str(kind if kind == "RSA" else entry.get("crv")), ())
    algorithms = frozenset(name for name in family if entry.get("alg") in (None, name))
    kid = entry.get("kid")
    if (
        not algorithms
        or entry.get("use", "sig") != "sig"
        or "verify" not in entry.get("key_ops", ("verify",))
        or not (kid is None or isinstance(kid, str))
    ):
        return None
    key = jwt.PyJWK(entry, algorithm=min(algorithms)).key
    # A private key in the document has leaked: every reader of the document can sign with it.
    if not isinstance(key, PublicKey):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return None
    return VerifyingKey(kid, algorithms, key)


_log = logging.getLogger("fleetlimit")


class JwksSource(Protocol):
    """Source of the keys that verify tokens."""

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Return the key, or raise `IdentityError`: `unknown_key` or `keys_unavailable`."""
        ...


def jwks_source(location: str) -> "JwksFile | JwksUrl":
    """Return the source of keys for an https URL or a file path.

    Raises:
        ConfigError: The URL or the file is invalid.
    """
    return JwksUrl(location) if "://" in location else JwksFile(location)


class JwksFile:
    """Keys from a JWKS file.

    Raises:
        ConfigError: The file cannot be read, or has no usable key.
    """

    def __init__(self, file: str | Path) -> None:
        document = read(Path(file))
        try:
            self._keys = JwkSet.parse(document)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Return the key with this id for this algorithm.

        Raises:
            IdentityError: There is no such key.
        """
        key = self._keys.find(kid, algorithm)
        if key is None:
            raise _unknown_key()
        return key


class JwksUrl:
    """Keys from a JWKS URL, fetched at the first use and cached.

    Keys older than `max_age` are refreshed in the background. An unknown key starts a refresh that
    all waiting requests share. There is at most one fetch in `min_interval`, whatever clients send.

    Args:
        url: An https URL; http only on loopback.
        timeout: Seconds that a fetch may take, and that a request waits for it.
        max_age: Seconds after which keys are refreshed.
        min_interval: Minimum seconds between the starts of two fetches.
        fetch: Function of the URL and the timeout that returns the document; runs in a thread.
        clock: Monotonic seconds.

    Raises:
        ConfigError: The URL is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 3.0,
        max_age: float = 300.0,
        min_interval: float = 10.0,
        fetch: Callable[[str, float], bytes] = fetch_document,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_url(url)
        self._url = url
        self._timeout = timeout
        self._max_age = max_age
        self._min_interval = min_interval
        self._fetch = fetch
        self._clock = clock
        self._keys: JwkSet | None = None
        self._loaded_at = 0.0
        self._attempted_at: float | None = None
        self._refresh: asyncio.Task[None] | None = None
        self._is_current = False
        """Whether the last fetch has succeeded."""

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Return the key with this id for this algorithm.

        Raises:
            IdentityError: There is no such key, or the last fetch has not succeeded. The issuer
                may then have a key of this id.
        """
        key = self._find_cached(kid, algorithm)
        if key is None:
            if refresh := self._start_refresh():
                # wait() does not cancel the refresh with this request: other requests share it.
                await asyncio.wait([refresh], timeout=self._timeout)
            key = self._find_cached(kid, algorithm)
        elif self._clock() - self._loaded_at >= self._max_age:
            self._start_refresh()
        if key is not None:
            return key
        if self._is_current:
            raise _unknown_key()
        raise IdentityError(
            "the keys to verify tokens are not available",
            reason=IdentityErrorReason.KEYS_UNAVAILABLE,
            scheme=BEARER_SCHEME,
            retry_after=self._seconds_to_next_fetch(),
        )

    def _seconds_to_next_fetch(self) -> int:
        attempted_at = self._attempted_at if self._attempted_at is not None else self._clock()
        return max(1, math.ceil(attempted_at + self._min_interval - self._clock()))

    def _find_cached(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        return self._keys.find(kid, algorithm) if self._keys else None

    def _start_refresh(self) -> asyncio.Task[None] | None:
        """Return the running refresh or a new one, or None if the last one is too recent."""
        if self._refresh is not None and not self._refresh.done():
            return self._refresh
        now = self._clock()
        if self._attempted_at is not None and now - self._attempted_at < self._min_interval:
            return None
        self._attempted_at = now
        # Many requests share the refresh, so it belongs to the trace of none.
        self._refresh = asyncio.get_running_loop().create_task(
            self._fetch_keys(), context=Context()
        )
        return self._refresh

    async def _fetch_keys(self) -> None:
        self._is_current = False
        try:
            # Its own limiter, so that the app's blocking endpoints do not delay it.
            self._keys = await anyio.to_thread.run_sync(
                lambda: JwkSet.parse(self._fetch(self._url, self._timeout)),
                abandon_on_cancel=True,
                limiter=anyio.CapacityLimiter(1),
            )
        except Exception as error:  # noqa: BLE001 - on any error the last good keys stay in use
            _log.warning("identity.jwks_unavailable url=%s error=%r", self._url, error)
        else:
            self._loaded_at = self._clock()
            self._is_current = True


def _unknown_key() -> IdentityError:
    return IdentityError(
        "the token names no key of the issuer",
        reason=IdentityErrorReason.UNKNOWN_KEY,
        scheme=BEARER_SCHEME,
    )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        raise ConfigError("the JWKS URL cannot be read: write https://host/path") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the JWKS URL contains credentials: write it without them")
    if parts.scheme == "file":
        raise ConfigError(f"{url!r}: write the path of a JWKS file without file://")
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts))
    ):
        raise ConfigError(
            f"{url!r} can be forged in transit: write an https:// URL, or the path of a file"
        )


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
