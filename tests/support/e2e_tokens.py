"""Token issuer with the same key in each run, so that a running release accepts its tokens."""

import json
import time
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "kind-suite"
KID: Final = "suite"
_KEY: Final = ec.derive_private_key(0xA11CE, ec.SECP256R1())


def jwks() -> str:
    """Return the JWKS of the issuer."""
    public = ECAlgorithm.to_jwk(_KEY.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": KID}]})


def token(subject: str) -> str:
    """Return a token of this principal that is valid for an hour."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": int(time.time()) + 3600}
    return jwt.encode(claims, _KEY, "ES256", headers={"kid": KID})
