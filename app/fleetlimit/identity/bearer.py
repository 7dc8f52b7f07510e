"""Verifier of bearer tokens from a configured issuer (RFC 6750, 7519, 8725). Needs PyJWT.

Public keys verify tokens, or a shared secret, never both for one verifier. The operator chooses
algorithms, issuer and audience. Nothing in a token (`alg`, `jku`, `jwk`, `x5u`) extends them.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.credentials import (
    BEARER_SCHEME,
    DEFAULT_MAX_HEADER_BYTES,
    IdentityErrorReason,
    first_header,
    read_bearer_token,
)
from fleetlimit.identity.jwks import ALGORITHMS, JwksSource
from fleetlimit.identity.shared_secret import SECRET_ALGORITHMS, SharedSecret

DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
CACHED_TOKENS = 4096
_CACHE_SECONDS = 60.0
_MAX_TIMESTAMP = 1 << 53
_CLOCK_SKEW_SECONDS = 30.0
"""How far `nbf` may be in the future (RFC 7519 §4.1.5). `exp` has no such leeway."""

_REASON_BY_ERROR: tuple[tuple[type[jwt.PyJWTError], IdentityErrorReason], ...] = (
    (jwt.InvalidSignatureError, IdentityErrorReason.SIGNATURE),
    (jwt.InvalidAudienceError, IdentityErrorReason.AUDIENCE),
    (jwt.InvalidIssuerError, IdentityErrorReason.ISSUER),
    (jwt.MissingRequiredClaimError, IdentityErrorReason.CLAIMS),
    (InvalidSubjectError, IdentityErrorReason.CLAIMS),
    (InvalidJTIError, IdentityErrorReason.CLAIMS),
)
_TEMPORARY = frozenset(
    {
        IdentityErrorReason.KEYS_UNAVAILABLE,
        IdentityErrorReason.NOT_YET_VALID,
        IdentityErrorReason.UNKNOWN_KEY,
    }
)
"""Reasons that time or a fetch of the keys removes; these rejections are not cached."""


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    until: float


@dataclass(frozen=True, slots=True)
class _Rejected:
    message: str
    reason: str
    until: float


class JwtVerifier:
    """Verifier of JSON Web Tokens sent as `Authorization: Bearer`.

    Tokens are cached for at most 60 s, by the SHA-256 of the header. That bounds how long a key
    that the issuer withdrew still verifies tokens. Rejections have a cache of their own, so that
    invented tokens evict no verified ones.

    Args:
        keys: The issuer's public keys, or its shared secret.
        issuer: Required value of `iss`.
        audience: Value that `aud` must be or contain; with several, one of them.
        algorithms: Accepted algorithms; asymmetric ones for public keys, HS256, HS384 and HS512
            for a shared secret.
        tier_claim: Claim that contains the tier. A token without it, or with a value that is not
            text, has no tier.
        max_header_bytes: Longest `Authorization` header in which a token is verified. The token's
            own header may be a quarter of that.
        clock: Seconds since the epoch.

    Raises:
        ConfigError: The issuer, the audience or an algorithm is invalid.
    """

    def __init__(
        self,
        keys: JwksSource | SharedSecret,
        *,
        issuer: str,
        audience: str | Sequence[str],
        algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
        tier_claim: str = "",
        max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self.issuer = issuer
        self._audience = [audience] if isinstance(audience, str) else list(audience)
        self._algorithms = [algorithms] if isinstance(algorithms, str) else list(algorithms)
        self._tier_claim = tier_claim
        self.max_header_bytes = max_header_bytes
        self._clock = clock
        self._verified: BoundedCache[bytes, _Verified] = BoundedCache(CACHED_TOKENS)
        self._rejected: BoundedCache[bytes, _Rejected] = BoundedCache(CACHED_TOKENS)
        if not issuer:
            raise ConfigError("jwt.issuer is empty: write the `iss` of the tokens to accept")
        if not self._audience or not all(self._audience):
            raise ConfigError("jwt.audience is empty: write the `aud` of the tokens to accept")
        secret = isinstance(keys, SharedSecret)
        known = SECRET_ALGORITHMS if secret else ALGORITHMS
        if not self._algorithms or not known.issuperset(self._algorithms):
            kind = "a shared secret" if secret else "public keys"
            raise ConfigError(
                f"jwt.algorithms {self._algorithms} cannot be used with {kind}: write some of "
                f"{', '.join(sorted(known))}; unsigned tokens are not accepted"
            )
        if isinstance(keys, SharedSecret):
            for each in self._algorithms:
                keys.require(each)

    async def resolve(self, scope: Mapping[str, Any]) -> Principal | None:
        """Return the principal of the request's token, or None if there is no bearer token.

        Raises:
            IdentityError: The token does not verify.
        """
        header = first_header(scope, b"authorization")
        if header is None:
            return None
        if len(header) > self.max_header_bytes:
            if read_bearer_token(header) is None:
                return None
            raise bearer_error(
                f"the token is longer than {self.max_header_bytes} bytes with its scheme",
                IdentityErrorReason.TOO_LONG,
            )
        digest = hashlib.sha256(header).digest()
        verified = self._verified.get(digest)
        if verified is not None and self._clock() < verified.until:
            return verified.principal
        rejected = self._rejected.get(digest)
        if rejected is not None and self._clock() < rejected.until:
            # Raising one exception object again would grow its traceback.
            raise bearer_error(rejected.message, rejected.reason)
        token = read_bearer_token(header)
        return await self._verify_and_cache(token, digest) if token is not None else None

    async def _verify_and_cache(self, token: str, digest: bytes) -> Principal:
        try:
            principal, expires = await self._verify(token)
        except IdentityError as error:
            if error.reason not in _TEMPORARY:
                until = self._clock() + _CACHE_SECONDS
                self._rejected.put(digest, _Rejected(str(error), error.reason, until))
            raise
        until = min(expires, self._clock() + _CACHE_SECONDS)
        self._verified.put(digest, _Verified(principal, until))
        return principal

    async def _verify(self, token: str) -> tuple[Principal, float]:
        """Return the principal of a token, and when the token expires."""
        try:
            claims = await self._verified_claims(token)
        except (jwt.PyJWTError, RecursionError) as error:
            reasons = (reason for kind, reason in _REASON_BY_ERROR if isinstance(error, kind))
            reason = next(reasons, IdentityErrorReason.MALFORMED)
            raise bearer_error(f"the token was rejected: {reason}", reason) from None
        now = self._clock()
        expires = _timestamp(claims, "exp")
        if expires <= now:
            raise bearer_error("the token has expired", IdentityErrorReason.EXPIRED)
        if "nbf" in claims and _timestamp(claims, "nbf") > now + _CLOCK_SKEW_SECONDS:
            raise bearer_error("the token is not valid yet", IdentityErrorReason.NOT_YET_VALID)
        return self._principal(claims), expires

    async def _verified_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token after verifying signature, issuer and audience."""
        jose_header, _, _ = token.partition(".")
        # JSON costs more than base64 and a signature, and is read before either.
        if len(jose_header) > self.max_header_bytes // 4:
            raise bearer_error(
                f"the token's header is longer than {self.max_header_bytes // 4} characters",
                IdentityErrorReason.TOO_LONG,
            )
        # The header alone, so that a token of another issuer or none costs no more than that.
        header = jwt.get_unverified_header(f"{jose_header}..")
        if "crit" in header:
            # `crit` lists extensions that a verifier must support (RFC 7515 §4.1.11): none are.
            raise jwt.InvalidTokenError
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise bearer_error(
                "the token's algorithm is not accepted", IdentityErrorReason.ALGORITHM
            )
        key = await self._keys.find(header.get("kid"), algorithm)
        return jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self.issuer,
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
            raise bearer_error("the token's sub is empty", IdentityErrorReason.CLAIMS)
        tier = claims.get(self._tier_claim, "")
        return Principal(name, tier if isinstance(tier, str) else "", source="jwt")


def _timestamp(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    # The range check is also false for NaN and infinity, which Python's JSON parser accepts.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < _MAX_TIMESTAMP:
        raise bearer_error(f"the token's {name} is not a time", IdentityErrorReason.CLAIMS)
    return float(value)


def bearer_error(message: str, reason: str) -> IdentityError:
    """Return the error of a bearer token."""
    return IdentityError(message, reason=reason, scheme=BEARER_SCHEME)
