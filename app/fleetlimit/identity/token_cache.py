"""Remembers verified tokens for a short while, and never past their expiry."""

import hashlib
from collections import OrderedDict

from fleetlimit.core.subject import Principal


class TokenCache:
    """A bounded map from a token's SHA-256 to its principal, least recently used out first.

    Args:
        size: Most tokens remembered.
        seconds: Longest time a token is remembered, so that a key which the issuer withdrew is
            soon asked for again.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._entries: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: bytes, now: float) -> Principal | None:
        """Return the principal of a token verified before, if it still holds."""
        digest = hashlib.sha256(token).digest()
        entry = self._entries.get(digest)
        if entry is None:
            return None
        until, principal = entry
        if now >= until:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return principal

    def put(self, token: bytes, principal: Principal, *, now: float, expires: float) -> None:
        """Remember a verified token; times are seconds of one clock."""
        digest = hashlib.sha256(token).digest()
        self._entries[digest] = (min(expires, now + self._seconds), principal)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
