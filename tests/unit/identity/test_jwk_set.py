"""JwkSet: only keys that may verify are used, each for its own algorithms."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from fleetlimit.errors import ConfigError
from fleetlimit.identity.jwks import JwkSet
from support.identity import ec_jwk, jwks, rsa_jwk, rsa_key

OCT = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}


@pytest.mark.parametrize(
    "entry",
    [
        OCT,
        {**OCT, "crv": "P-256"},
        rsa_jwk("one", use="enc"),
        rsa_jwk("one", key_ops=["encrypt"]),
        rsa_jwk("one", alg="RS1"),
        rsa_jwk("one", alg="HS256"),
        rsa_jwk("one", kid=7),
        rsa_jwk("one", alg=["RS256"]),
        rsa_jwk("one", key_ops=7),
        rsa_jwk("one", n="!"),
        ec_jwk("one", crv="secp256k1"),
        ec_jwk("one", x="AA"),
        {
            **RSAAlgorithm.to_jwk(rsa_key("one"), as_dict=True),
            "kid": "private",
            "key_ops": ["verify"],
        },
        RSAAlgorithm.to_jwk(rsa_key("small", 1024).public_key(), as_dict=True),
    ],
)
def test_unsuitable_keys_are_ignored(entry: dict[str, Any]) -> None:
    """Shared, private, weak, broken and encryption keys are ignored."""
    assert [key.kid for key in JwkSet.parse(jwks(entry, rsa_jwk("two"))).keys] == ["two"]
    with pytest.raises(ConfigError, match="no key that can verify"):
        JwkSet.parse(jwks(entry))


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": [7]}', b"\xff", b"[" * 100_000]
)
def test_document_that_is_not_a_jwks_is_rejected(document: bytes) -> None:
    """Anything but an object with a list of keys is an error."""
    with pytest.raises(ConfigError, match=r"not a JWKS|no key that can"):
        JwkSet.parse(document)


def test_key_is_bound_to_its_algorithms() -> None:
    """A key verifies its own `alg`, or all algorithms of its type if it has none."""
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    keys = JwkSet.parse(
        jwks(
            rsa_jwk("one", alg="RS256"),
            rsa_jwk("two"),
            ec_jwk("three"),
            {**OKPAlgorithm.to_jwk(edwards, as_dict=True), "kid": "four"},
        )
    )
    assert keys.find("one", "RS256")
    assert not keys.find("one", "PS256")
    assert keys.find("two", "PS512")
    assert not keys.find("two", "ES256")
    assert keys.find("three", "ES256")
    assert not keys.find("three", "ES384")
    assert keys.find("four", "EdDSA")


def test_token_without_kid_uses_the_only_suitable_key() -> None:
    """Without a kid, exactly one key must be suitable."""
    keys = JwkSet.parse(jwks(rsa_jwk("one"), rsa_jwk("two"), ec_jwk("three")))
    assert keys.find(None, "RS256") is None
    found = keys.find(None, "ES256")
    assert found is not None
    assert found.kid == "three"


def test_pyjwt_supports_every_offered_algorithm() -> None:
    """PyJWT supports each algorithm that a key can be bound to."""
    assert jwt.algorithms.get_default_algorithms().keys() >= {"RS256", "PS512", "ES512", "EdDSA"}
