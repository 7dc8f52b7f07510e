"""SharedSecret: tokens that an issuer signs with HS256, from a file with one secret."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError
from fleetlimit.identity import open_secret
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.jwks import JwksFile
from fleetlimit.identity.shared_secret import SharedSecret
from support.clock import ManualClock
from support.identity import (
    AUDIENCE,
    CLAIMS,
    ISSUER,
    bearer_request,
    jwks,
    jwt_segment,
    rejection_reason,
    rsa_jwk,
    rsa_key,
    secret_token,
    token,
    unsigned,
)

SHARED = "a-secret-of-32-characters-is-ok!"


def secret_file(folder: Path, text: str | bytes = SHARED) -> Path:
    path = folder / "secret"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture(name="verifier")
def _verifier(tmp_path: Path, clock: ManualClock) -> JwtVerifier:
    keys = open_secret(secret_file(tmp_path, f"{SHARED}\n"))
    return JwtVerifier(
        keys, issuer=ISSUER, audience=AUDIENCE, algorithms=["HS256"], clock=clock.seconds
    )


@pytest.mark.parametrize("kid", [None, "any"])
async def test_token_of_the_secret_identifies_its_subject(
    verifier: JwtVerifier, kid: str | None
) -> None:
    """The line break at the end of the file is not part of the secret, and a `kid` is ignored."""
    principal = await verifier.resolve(bearer_request(secret_token(SHARED, kid=kid)))
    assert principal == Principal("alice", source="jwt")


@pytest.mark.parametrize(
    ("presented", "reason"),
    [
        (secret_token(f"{SHARED}\n"), "signature"),
        (secret_token("another-secret-of-32-characters!"), "signature"),
        (secret_token(SHARED * 2, "HS512"), "algorithm"),
        (token(), "algorithm"),
        (unsigned(), "algorithm"),
        (unsigned("HS256"), "signature"),
        (secret_token(SHARED, iss="https://mallory.example"), "issuer"),
        (secret_token(SHARED, aud="other"), "audience"),
        (secret_token(SHARED, exp=1), "expired"),
        (secret_token(SHARED, sub=None), "claims"),
    ],
)
async def test_other_token_is_rejected(verifier: JwtVerifier, presented: str, reason: str) -> None:
    """Only tokens that the secret signed with an accepted algorithm verify."""
    assert await rejection_reason(verifier, presented) == reason


async def test_public_key_never_verifies_a_secrets_token(
    tmp_path: Path, clock: ManualClock
) -> None:
    """No verifier has algorithms of both kinds, so that a public key is never used as a secret."""
    (tmp_path / "jwks.json").write_bytes(jwks(rsa_jwk("one")))
    keys = JwksFile(tmp_path / "jwks.json")
    with pytest.raises(ConfigError, match="cannot be used with public keys"):
        JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, algorithms=["RS256", "HS256"])
    with pytest.raises(ConfigError, match="cannot be used with a shared secret: write some of HS"):
        JwtVerifier(
            SharedSecret(secret_file(tmp_path)),
            issuer=ISSUER,
            audience=AUDIENCE,
            algorithms=["HS256", "RS256"],
        )
    pem = (
        rsa_key("one")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signed = f"{jwt_segment({'alg': 'HS256', 'kid': 'one'})}.{jwt_segment(CLAIMS)}"
    forged = f"{signed}.{jwt_segment(hmac.digest(pem, signed.encode(), hashlib.sha256))}"
    verifier = JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock.seconds)
    assert await rejection_reason(verifier, forged) == "algorithm"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not one line of text"),
        ("\n\n", "not one line of text"),
        ("two lines of text\nthat are long enough together", "not one line of text"),
        (b"\x00" * 32, "not one line of text"),
        ("ä" * 32, "not one line of text"),
        ("a" * 31, "has 31 characters, and a secret needs 32 or more"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "write `jwks`"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ", "write `jwks`"),
        (jwks(rsa_jwk("one")), "write `jwks`"),
        (json.dumps(rsa_jwk("one"), separators=(",", ":")), "write `jwks`"),
        ("[" * 4000, None),
        ("a" * 4097, "above 4,096 bytes"),
    ],
)
def test_file_without_a_secret_is_an_error(
    tmp_path: Path, content: str | bytes, message: str | None
) -> None:
    """A file that is empty, short, or a public key is an error that does not contain its text."""
    path = secret_file(tmp_path, content)
    if message is None:
        SharedSecret(path)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        SharedSecret(path)
    assert "a" * 31 not in str(caught.value)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """The file must exist."""
    with pytest.raises(ConfigError, match="no-such-file"):
        SharedSecret(tmp_path / "no-such-file")


def test_secret_is_as_long_as_the_hash(tmp_path: Path) -> None:
    """A longer hash needs a longer secret (RFC 7518, section 3.2)."""
    keys = SharedSecret(secret_file(tmp_path, "s" * 63))
    with pytest.raises(ConfigError, match="too short for HS512, which needs 64 characters"):
        JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, algorithms=["HS384", "HS512"])


async def test_longer_hashes_verify(tmp_path: Path, clock: ManualClock) -> None:
    """HS384 and HS512 verify where they are accepted."""
    text = "s" * 64
    verifier = JwtVerifier(
        SharedSecret(secret_file(tmp_path, text)),
        issuer=ISSUER,
        audience=AUDIENCE,
        algorithms=["HS384", "HS512"],
        clock=clock.seconds,
    )
    for algorithm in ("HS384", "HS512"):
        assert await verifier.resolve(bearer_request(secret_token(text, algorithm))) is not None
