"""Verifier of bearer tokens from a configured issuer (RFC 6750, 7519, 8725). Needs PyJWT.

Only public keys verify tokens. The operator chooses algorithms, issuer and audience. Nothing in a
token (`alg`, `jku`, `jwk`, `x5u`) extends them.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jwt

from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.credentials import IdentityErrorReason, first_header
from fleetlimit.identity.jwks import ALGORITHMS, JwksSource


class TokenCache:
    """LRU cache of verified tokens: the principal by the token's SHA-256.

    Args:
        size: Most tokens in the cache.
        seconds: Longest time in the cache. It bounds how long a key that the issuer withdrew still
            verifies tokens.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._entries: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: bytes, now: float) -> Principal | None:
        """Return the principal of a cached token, or None if it is absent or expired."""
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
        """Cache a verified token; `now` and `expires` are seconds of the same clock."""
        digest = hashlib.sha256(token).digest()
        self._entries[digest] = (min(expires, now + self._seconds), principal)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


MAX_TOKEN_BYTES = 8192
DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")

_CACHED_TOKENS = 4096
_CACHE_SECONDS = 60.0
_MAX_TIMESTAMP = 1 << 53
_CLOCK_SKEW_SECONDS = 30.0
"""How far `nbf` may be in the future (RFC 7519 §4.1.5). `exp` has no such leeway."""

_REASON_BY_ERROR: tuple[tuple[type[jwt.PyJWTError], IdentityErrorReason], ...] = (
    (jwt.InvalidSignatureError, IdentityErrorReason.SIGNATURE),
    (jwt.InvalidAudienceError, IdentityErrorReason.AUDIENCE),
    (jwt.InvalidIssuerError, IdentityErrorReason.ISSUER),
    (jwt.MissingRequiredClaimError, IdentityErrorReason.CLAIMS),
)


class JwtVerifier:
    """Verifier of JSON Web Tokens sent as `Authorization: Bearer`.

    Args:
        keys: The issuer's public keys.
        issuer: Required value of `iss`.
        audience: Value that `aud` must be or contain; with several, one of them.
        algorithms: Accepted algorithms; asymmetric ones only.
        tier_claim: Claim that contains the tier. A token without it, or with a value that is not
            text, has no tier.
        clock: Seconds since the epoch.

    Raises:
        ConfigError: The issuer, the audience or an algorithm is invalid.
    """

    def __init__(
        self,
        keys: JwksSource,
        *,
        issuer: str,
        audience: str | Sequence[str],
        algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
        tier_claim: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = [audience] if isinstance(audience, str) else list(audience)
        self._algorithms = [algorithms] if isinstance(algorithms, str) else list(algorithms)
        self._tier_claim = tier_claim
        self._clock = clock
        self._cache = TokenCache(_CACHED_TOKENS, _CACHE_SECONDS)
        if not issuer:
            raise ConfigError("jwt.issuer is empty: write the `iss` of the tokens to accept")
        if not self._audience or not all(self._audience):
            raise ConfigError("jwt.audience is empty: write the `aud` of the tokens to accept")
        if not self._algorithms or not ALGORITHMS.issuperset(self._algorithms):
            raise ConfigError(
                f"jwt.algorithms {self._algorithms} cannot be used: write some of "
                f"{', '.join(sorted(ALGORITHMS))}; unsigned tokens and shared secrets (HS256) are "
                "not accepted"
            )

    async def resolve(self, scope: Mapping[str, Any]) -> Principal | None:
        """Return the principal of the request's token, or None if there is no bearer token.

        Raises:
            IdentityError: The token does not verify.
        """
        scheme, _, token = (first_header(scope, b"authorization") or b"").partition(b" ")
        # The scheme's name is case-insensitive (RFC 9110 §11.1).
        return await self._verify(token.strip(b" ")) if scheme.lower() == b"bearer" else None

    async def _verify(self, token: bytes) -> Principal:
        if len(token) > MAX_TOKEN_BYTES:
            raise IdentityError(
                f"the token is longer than {MAX_TOKEN_BYTES} bytes",
                reason=IdentityErrorReason.TOO_LONG,
            )
        if principal := self._cache.get(token, self._clock()):
            return principal
        try:
            claims = await self._verified_claims(token)
        except (jwt.PyJWTError, RecursionError) as error:
            reasons = (reason for kind, reason in _REASON_BY_ERROR if isinstance(error, kind))
            reason = next(reasons, IdentityErrorReason.MALFORMED)
            raise IdentityError(f"the token was rejected: {reason}", reason=reason) from None
        now = self._clock()
        expires = _timestamp(claims, "exp")
        if expires <= now:
            raise IdentityError("the token has expired", reason=IdentityErrorReason.EXPIRED)
        if "nbf" in claims and _timestamp(claims, "nbf") > now + _CLOCK_SKEW_SECONDS:
            raise IdentityError(
                "the token is not valid yet", reason=IdentityErrorReason.NOT_YET_VALID
            )
        principal = self._principal(claims)
        self._cache.put(token, principal, now=now, expires=expires)
        return principal

    async def _verified_claims(self, token: bytes) -> dict[str, Any]:
        """Return the claims of a token after verifying signature, issuer and audience."""
        header = jwt.get_unverified_header(token)
        if "crit" in header:
            # `crit` lists extensions that a verifier must support (RFC 7515 §4.1.11): none are.
            raise jwt.InvalidTokenError
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise IdentityError(
                "the token's algorithm is not accepted", reason=IdentityErrorReason.ALGORITHM
            )
        key = await self._keys.find(header.get("kid"), algorithm)
        return jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            options={
                "require": ["exp", "iss", "aud", "sub"],
                # `_verify` checks the times, on this object's clock.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )

    def _principal(self, claims: dict[str, Any]) -> Principal:
        name = claims["sub"]
        if not name:
            raise IdentityError("the token's sub is empty", reason=IdentityErrorReason.CLAIMS)
        tier = claims.get(self._tier_claim, "")
        return Principal(name, tier if isinstance(tier, str) else "", source="jwt")


def _timestamp(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    # The range check is also false for NaN and infinity, which Python's JSON parser accepts.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < _MAX_TIMESTAMP:
        raise IdentityError(f"the token's {name} is not a time", reason=IdentityErrorReason.CLAIMS)
    return float(value)
