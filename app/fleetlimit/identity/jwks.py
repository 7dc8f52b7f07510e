"""Holds the public keys of a token issuer, from a file or from its JWKS URL (RFC 7517).

The last good keys serve on while new ones cannot be had.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.to_thread

from fleetlimit.core.errors import ConfigError, IdentityError
from fleetlimit.documents import read
from fleetlimit.identity.jwks_fetch import fetch_document
from fleetlimit.identity.key_set import KeySet, VerifyingKey
from fleetlimit.identity.reasons import Reason

_log = logging.getLogger("fleetlimit")


class KeySource(Protocol):
    """Where the keys that verify tokens come from."""

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Return the key, or raise `IdentityError`: `unknown_key` or `keys_unavailable`."""
        ...


def key_source(location: str) -> "FileKeys | RemoteKeys":
    """Return the keys at an https URL, or in a file.

    Raises:
        ConfigError: The URL cannot be used, or the file is wrong.
    """
    return RemoteKeys(location) if "://" in location else FileKeys(location)


class FileKeys:
    """Keys from a JWKS file.

    Raises:
        ConfigError: The file cannot be read or holds no key that can be used.
    """

    def __init__(self, file: str | Path) -> None:
        document = read(Path(file))
        try:
            self._keys = KeySet.parse(document)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Return the key of this id for this algorithm.

        Raises:
            IdentityError: There is none.
        """
        key = self._keys.find(kid, algorithm)
        if key is None:
            raise _unknown_key()
        return key


class RemoteKeys:
    """Keys from a JWKS URL, fetched when first needed and kept.

    Keys older than `max_age` are fetched anew in the background. A key that is not known is looked
    for in a new fetch, which requests share; there is at most one fetch for each `interval`,
    whatever clients send.

    Args:
        url: An https URL; http only on loopback.
        timeout: Seconds that a fetch may take, and that a request waits for it.
        max_age: Seconds after which keys are fetched anew.
        interval: Least seconds between the starts of two fetches.
        fetch: Takes the URL and the timeout to the document, in a thread.
        clock: Monotonic seconds.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 3.0,
        max_age: float = 300.0,
        interval: float = 10.0,
        fetch: Callable[[str, float], bytes] = fetch_document,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_url(url)
        self._url = url
        self._timeout = timeout
        self._max_age = max_age
        self._interval = interval
        self._fetch = fetch
        self._clock = clock
        self._keys: KeySet | None = None
        self._loaded_at = 0.0
        self._tried_at: float | None = None
        self._refresh: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Return the key of this id for this algorithm.

        Raises:
            IdentityError: There is none, or no keys could be had yet.
        """
        key = self._known(kid, algorithm)
        if key is None:
            if refresh := self._start_refresh():
                # The fetch is everybody's: a request that gives up must not end it.
                await asyncio.wait([refresh], timeout=self._timeout)
            key = self._known(kid, algorithm)
        elif self._clock() - self._loaded_at >= self._max_age:
            self._start_refresh()
        if key is not None:
            return key
        if self._keys is None:
            raise IdentityError(
                "the keys to verify tokens are not available", reason=Reason.KEYS_UNAVAILABLE
            )
        raise _unknown_key()

    def _known(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        return self._keys.find(kid, algorithm) if self._keys else None

    def _start_refresh(self) -> asyncio.Task[None] | None:
        """Return the fetch under way, a new one, or None when the last one is too recent."""
        if self._refresh is not None and not self._refresh.done():
            return self._refresh
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < self._interval:
            return None
        self._tried_at = now
        self._refresh = asyncio.get_running_loop().create_task(self._load())
        return self._refresh

    async def _load(self) -> None:
        try:
            # A limiter of its own: not queued behind the application's blocking endpoints.
            self._keys = await anyio.to_thread.run_sync(
                lambda: KeySet.parse(self._fetch(self._url, self._timeout)),
                abandon_on_cancel=True,
                limiter=anyio.CapacityLimiter(1),
            )
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the last good keys serve on
            _log.warning("identity.jwks_unavailable url=%s error=%r", self._url, error)
        else:
            self._loaded_at = self._clock()


def _unknown_key() -> IdentityError:
    return IdentityError("the token names no key of the issuer", reason=Reason.UNKNOWN_KEY)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        raise ConfigError("the JWKS URL cannot be read: write https://host/path") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the JWKS URL holds credentials: write it without them")
    if parts.scheme == "file":
        raise ConfigError(f"{url!r}: write the path of a JWKS file without file://")
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts))
    ):
        raise ConfigError(
            f"{url!r} could be answered by anybody on the way: write an https:// URL, or the path "
            "of a file"
        )


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
