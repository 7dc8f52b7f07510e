"""Verifier of the tokens of several issuers. Needs PyJWT.

A token's `iss`, which is not verified yet, selects the issuer whose keys and algorithms verify it.
A token therefore never reaches the keys of another issuer, and never makes them be fetched.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jwt.utils import base64url_decode

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.subject import Principal
from fleetlimit.errors import IdentityError
from fleetlimit.identity.bearer import CACHED_TOKENS, JwtVerifier, bearer_error
from fleetlimit.identity.credentials import IdentityErrorReason, first_header, read_bearer_token

_SEGMENTS: Final = 3
"""Header, claims and signature of a token (RFC 7515 §3.1)."""
_UNRELATED: Final = frozenset(
    {
        IdentityErrorReason.ALGORITHM,
        IdentityErrorReason.SIGNATURE,
        IdentityErrorReason.UNKNOWN_KEY,
    }
)
"""Reasons of a verifier whose keys did not sign the token."""


class IssuersVerifier:
    """Verifier that passes each token to the verifier of its issuer.

    An issuer may have several verifiers, as while it changes from one secret to another, or from a
    secret to public keys: a token verifies if one of them accepts it.

    Args:
        verifiers: Verifiers of the issuers.
    """

    def __init__(self, verifiers: Sequence[JwtVerifier]) -> None:
        self._by_issuer: dict[str, list[JwtVerifier]] = {}
        for each in verifiers:
            self._by_issuer.setdefault(each.issuer, []).append(each)
        self._max_header_bytes = max(each.max_header_bytes for each in verifiers)
        self._issuers: BoundedCache[bytes, str] = BoundedCache(CACHED_TOKENS)

    async def resolve(self, scope: Mapping[str, Any]) -> Principal | None:
        """Return the principal of the request's token, or None if there is no bearer token.

        Raises:
            IdentityError: The token does not verify.
        """
        header = first_header(scope, b"authorization")
        if header is None or (token := read_bearer_token(header)) is None:
            return None
        if len(header) > self._max_header_bytes:
            raise bearer_error(
                f"the token is longer than {self._max_header_bytes} bytes with its scheme",
                IdentityErrorReason.TOO_LONG,
            )
        digest = hashlib.sha256(header).digest()
        issuer = self._issuers.get(digest)
        if issuer is None:
            issuer = _issuer_of(token)
            # Invented issuers are not cached: they would evict those of verified tokens.
            if issuer in self._by_issuer:
                self._issuers.put(digest, issuer)
        verifiers = self._by_issuer.get(issuer)
        if verifiers is None:
            raise bearer_error("the token's issuer is not accepted", IdentityErrorReason.ISSUER)
        return await _first_accepted(verifiers, scope)


async def _first_accepted(
    verifiers: Sequence[JwtVerifier], scope: Mapping[str, Any]
) -> Principal | None:
    """Return the principal of the first verifier that accepts the token."""
    errors: list[IdentityError] = []
    for each in verifiers:
        try:
            return await each.resolve(scope)
        except IdentityError as error:
            errors.append(error)
    raise min(errors, key=_rank)


def _rank(error: IdentityError) -> int:
    """Return 0 for a token that may be valid, and 1 for one whose key fits a verifier."""
    if error.retry_after is not None:
        return 0
    return 2 if error.reason in _UNRELATED else 1


def _issuer_of(token: str) -> str:
    """Return the `iss` of a token whose signature was not verified.

    Raises:
        IdentityError: The token is malformed, or has no issuer.
    """
    segments = token.split(".")
    try:
        claims = json.loads(base64url_decode(segments[1])) if len(segments) == _SEGMENTS else None
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise bearer_error(
            f"the token was rejected: {IdentityErrorReason.MALFORMED}",
            IdentityErrorReason.MALFORMED,
        )
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise bearer_error("the token has no iss", IdentityErrorReason.CLAIMS)
    return issuer
