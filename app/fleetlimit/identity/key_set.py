"""Parses a JWKS into public keys, each bound to the algorithms it may verify (RFC 7517, 7518).

Symmetric keys are left out: whoever can verify with one can also sign.
"""

import json
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from fleetlimit.core.errors import ConfigError

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
"""Every algorithm that tokens can be verified with."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key, its id if it has one, and the algorithms it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    key: PublicKey


class KeySet:
    """An immutable set of public keys."""

    def __init__(self, keys: tuple[VerifyingKey, ...]) -> None:
        self.keys = keys

    @classmethod
    def parse(cls, document: bytes) -> "KeySet":
        """Read a JWKS document, leaving out keys that cannot or must not verify a token.

        Raises:
            ConfigError: The document is no JWKS, or no key of it can be used.
        """
        try:
            entries = json.loads(document)["keys"]
            keys = tuple(key for entry in entries if (key := _usable(entry)))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError('not a JWKS: write {"keys": [...]} (RFC 7517)') from None
        if not keys:
            raise ConfigError(
                "no key that can verify tokens: write public RSA (2048 bits or more), EC or "
                "Ed25519 keys"
            )
        return cls(keys)

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Return the key of this id for this algorithm.

        A token without an id is served by the one key that fits its algorithm, if there is one.
        """
        found = [key for key in self.keys if algorithm in key.algorithms]
        if kid is None:
            return found[0] if len(found) == 1 else None
        return next((key for key in found if key.kid == kid), None)


def _usable(entry: Any) -> VerifyingKey | None:
    """Return the key of an entry; None for what is to be ignored (RFC 7517 §5)."""
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
    # A private key here has leaked: whoever read the document can sign with it.
    if not isinstance(key, PublicKey):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return None
    return VerifyingKey(kid, algorithms, key)
