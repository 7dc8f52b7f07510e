"""JwtVerifier rejects hostile tokens, each with its reason."""

import hashlib
import hmac
from collections.abc import Callable

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetlimit.errors import IdentityError
from fleetlimit.identity.bearer import JwtVerifier
from support.identity import (
    CLAIMS,
    NOW,
    bearer_request,
    jwt_segment,
    rejection_reason,
    rsa_jwk,
    rsa_key,
    token,
    unsigned,
)


def signed_with_public_key() -> str:
    """Sign with HS256 and the public key's PEM as the secret."""
    pem = (
        rsa_key("one")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signed = f"{jwt_segment({'alg': 'HS256', 'kid': 'one'})}.{jwt_segment(CLAIMS)}"
    return f"{signed}.{jwt_segment(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def with_own_key() -> str:
    """Put the signing key into the token's header."""
    headers = {"kid": "one", "jwk": rsa_jwk("mallory"), "jku": "https://mallory.example/jwks"}
    return jwt.encode(CLAIMS, rsa_key("mallory"), "RS256", headers=headers)


def tampered() -> str:
    """Change the subject under another token's signature."""
    header, _, signature = token().split(".")
    return f"{header}.{jwt_segment(CLAIMS)}.{signature}"


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: token(exp=NOW - 1), "expired"),
    "expires_now": (lambda: token(exp=NOW), "expired"),
    "not_yet_valid": (lambda: token(nbf=NOW + 31), "not_yet_valid"),
    "unsigned": (unsigned, "algorithm"),
    "unsigned_in_capitals": (lambda: unsigned("NONE"), "algorithm"),
    "algorithm_is_a_list": (
        lambda: f"{jwt_segment({'alg': ['RS256']})}.{jwt_segment(CLAIMS)}.AA",
        "algorithm",
    ),
    "no_algorithm": (lambda: f"{jwt_segment({})}.{jwt_segment(CLAIMS)}.AA", "algorithm"),
    "public_key_as_secret": (signed_with_public_key, "algorithm"),
    "algorithm_not_configured": (lambda: token(algorithm="RS512"), "algorithm"),
    "own_key": (with_own_key, "signature"),
    "tampered": (tampered, "signature"),
    "other_key": (
        lambda: jwt.encode(CLAIMS, rsa_key("two"), "RS256", headers={"kid": "one"}),
        "signature",
    ),
    "no_signature": (lambda: token().rpartition(".")[0] + ".", "signature"),
    "algorithm_of_another_key": (lambda: token("ec2", "ES256"), "unknown_key"),
    "unknown_kid": (lambda: token("mallory"), "unknown_key"),
    "no_kid_and_two_keys": (lambda: token(None), "unknown_key"),
    "kid_is_a_number": (
        lambda: f"{jwt_segment({'alg': 'RS256', 'kid': 7})}.{jwt_segment(CLAIMS)}.AA",
        "malformed",
    ),
    "wrong_audience": (lambda: token(aud="other"), "audience"),
    "audience_is_a_number": (lambda: token(aud=7), "audience"),
    "wrong_issuer": (lambda: token(iss="https://mallory.example"), "issuer"),
    "no_exp": (lambda: token(exp=None), "claims"),
    "no_iss": (lambda: token(iss=None), "claims"),
    "no_aud": (lambda: token(aud=None), "claims"),
    "no_sub": (lambda: token(sub=None), "claims"),
    "empty_sub": (lambda: token(sub=""), "claims"),
    "sub_is_a_number": (lambda: token(sub=7), "claims"),
    "sub_is_a_list": (lambda: token(sub=["alice"]), "claims"),
    "jti_is_a_number": (lambda: token(jti=7), "claims"),
    "exp_is_text": (lambda: token(exp="tomorrow"), "claims"),
    "exp_is_true": (lambda: token(exp=True), "claims"),
    "exp_is_nan": (lambda: token(exp=float("nan")), "claims"),
    "exp_is_infinite": (lambda: token(exp=float("inf")), "claims"),
    "exp_is_beyond_floats": (lambda: token(exp=10**400), "claims"),
    "nbf_is_text": (lambda: token(nbf="yesterday"), "claims"),
    "critical_extension": (
        lambda: jwt.encode(
            CLAIMS, rsa_key("one"), "RS256", headers={"kid": "one", "crit": ["x"], "x": 1}
        ),
        "malformed",
    ),
    "critical_extension_that_the_library_knows": (
        lambda: f"{jwt_segment({'alg': 'RS256', 'b64': False, 'crit': ['b64']})}..AA",
        "malformed",
    ),
    "empty": (lambda: "", "malformed"),
    "opaque": (lambda: "6f1ed002ab5595859014ebf0951522d9", "malformed"),
    "dots": (lambda: "..", "malformed"),
    "header_is_a_list": (lambda: f"{jwt_segment([])}.{jwt_segment(CLAIMS)}.AA", "malformed"),
    "header_is_deep": (lambda: f"{jwt_segment(b'[' * 700)}.AA.AA", "malformed"),
    "payload_is_a_list": (
        lambda: jwt.api_jws.encode(b"[]", rsa_key("one"), "RS256", headers={"kid": "one"}),
        "malformed",
    ),
    "header_too_long": (
        lambda: f"{jwt_segment({'alg': 'RS256', 'kid': 'one', 'x': [1] * 300})}.AA.AA",
        "too_long",
    ),
    "too_long": (lambda: "a" * 4096, "too_long"),
    "sixty_four_kilobytes": (lambda: "a." * 32768, "too_long"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_token_is_rejected_with_its_reason(tokens: JwtVerifier, name: str) -> None:
    """An invalid token never verifies, and the reason says why."""
    make, reason = HOSTILE[name]
    presented = make()
    assert await rejection_reason(tokens, presented) == reason
    assert await rejection_reason(tokens, presented) == reason


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_binary_junk_is_rejected(tokens: JwtVerifier, junk: bytes) -> None:
    """Any bytes in place of a token raise `IdentityError` and nothing else."""
    with pytest.raises(IdentityError):
        await tokens.resolve(bearer_request(junk))
