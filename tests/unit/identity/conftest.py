"""Fixtures for the tests of tokens."""

from pathlib import Path

import pytest

from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.jwks import JwksFile
from support.clock import ManualClock
from support.identity import AUDIENCE, ISSUER, ec_jwk, jwks, rsa_jwk


@pytest.fixture(name="clock")
def _clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(name="tokens")
def _tokens(tmp_path: Path, clock: ManualClock) -> JwtVerifier:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(rsa_jwk("one"), rsa_jwk("two"), ec_jwk("ec")))
    return JwtVerifier(
        JwksFile(path), issuer=ISSUER, audience=AUDIENCE, tier_claim="plan", clock=clock.seconds
    )
