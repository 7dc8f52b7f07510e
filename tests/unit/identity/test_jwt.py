"""Only tokens that the issuer signed for this audience, and that still hold, name a principal."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.core.errors import ConfigError, IdentityError
from headgate.core.subject import Principal
from headgate.identity import BearerTokens, FileKeys, RemoteKeys
from headgate.identity.token_cache import TokenCache
from support.identity import (
    AUDIENCE,
    ISSUER,
    NOW,
    Clock,
    bearer,
    ec_jwk,
    jwks,
    jwks_server,
    request,
    rsa_jwk,
    rsa_key,
    token,
)


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mallory", "exp": NOW + 600}


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="tokens")
def _tokens(tmp_path: Path, clock: Clock) -> BearerTokens:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(rsa_jwk("one"), rsa_jwk("two"), ec_jwk("ec")))
    return BearerTokens(
        FileKeys(path), issuer=ISSUER, audience=AUDIENCE, tier_claim="plan", clock=clock
    )


async def refusal(tokens: BearerTokens, presented: str | bytes) -> str:
    """Return the reason for which a token is refused."""
    with pytest.raises(IdentityError) as caught:
        await tokens.resolve(bearer(presented))
    return caught.value.reason


@pytest.mark.parametrize(
    ("kid", "algorithm"), [("one", "RS256"), ("two", "PS256"), ("ec", "ES256")]
)
async def test_a_good_token_names_its_subject(
    tokens: BearerTokens, kid: str, algorithm: str
) -> None:
    """The principal is `sub`; the tier is the claim that the operator names."""
    principal = await tokens.resolve(bearer(token(kid, algorithm, plan="pro")))
    assert principal == Principal("alice", "pro", source="jwt")


@pytest.mark.parametrize("plan", [None, 3, ["pro"]])
async def test_a_tier_that_is_no_text_is_no_tier(tokens: BearerTokens, plan: Any) -> None:
    """A missing or structured tier claim gives the empty tier."""
    principal = await tokens.resolve(bearer(token(plan=plan)))
    assert principal == Principal("alice", "", source="jwt")


@pytest.mark.parametrize("value", ["bearer", "BEARER", "Bearer "])
async def test_the_scheme_is_case_insensitive(tokens: BearerTokens, value: str) -> None:
    """RFC 9110 names authentication schemes without regard to case."""
    assert await tokens.resolve(request(("Authorization", f"{value} {token()}"))) is not None


@pytest.mark.parametrize(
    "headers", [[], [("Authorization", "Basic YTpi")], [("Authorization", "BearerX y")]]
)
async def test_other_schemes_are_left_alone(
    tokens: BearerTokens, headers: list[tuple[str, str]]
) -> None:
    """An Authorization header that is not Bearer presents no credential of ours."""
    assert await tokens.resolve(request(*headers)) is None


def unsigned(algorithm: str = "none") -> str:
    return f"{segment({'alg': algorithm, 'kid': 'one'})}.{segment(CLAIMS)}."


def signed_with_public_key() -> str:
    """Take the public key's PEM for the secret of HS256."""
    pem = (
        rsa_key("one")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signed = f"{segment({'alg': 'HS256', 'kid': 'one'})}.{segment(CLAIMS)}"
    return f"{signed}.{segment(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def with_own_key() -> str:
    """Bring the key along in the token's header."""
    headers = {"kid": "one", "jwk": rsa_jwk("mallory"), "jku": "https://mallory.example/jwks"}
    return jwt.encode(CLAIMS, rsa_key("mallory"), "RS256", headers=headers)


def tampered() -> str:
    """Change the subject under somebody else's signature."""
    header, _, signature = token().split(".")
    return f"{header}.{segment(CLAIMS)}.{signature}"


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: token(exp=NOW - 1), "expired"),
    "expires_now": (lambda: token(exp=NOW), "expired"),
    "not_yet_valid": (lambda: token(nbf=NOW + 31), "not_yet_valid"),
    "unsigned": (unsigned, "algorithm"),
    "unsigned_in_capitals": (lambda: unsigned("NONE"), "algorithm"),
    "algorithm_is_a_list": (
        lambda: f"{segment({'alg': ['RS256']})}.{segment(CLAIMS)}.AA",
        "algorithm",
    ),
    "no_algorithm": (lambda: f"{segment({})}.{segment(CLAIMS)}.AA", "algorithm"),
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
        lambda: f"{segment({'alg': 'RS256', 'kid': 7})}.{segment(CLAIMS)}.AA",
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
    "sub_is_a_number": (lambda: token(sub=7), "malformed"),
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
        lambda: f"{segment({'alg': 'RS256', 'b64': False, 'crit': ['b64']})}..AA",
        "malformed",
    ),
    "empty": (lambda: "", "malformed"),
    "opaque": (lambda: "6f1ed002ab5595859014ebf0951522d9", "malformed"),
    "dots": (lambda: "..", "malformed"),
    "header_is_a_list": (lambda: f"{segment([])}.{segment(CLAIMS)}.AA", "malformed"),
    "header_is_deep": (lambda: f"{segment(b'[' * 6000)}.AA.AA"[:8192], "malformed"),
    "payload_is_a_list": (
        lambda: jwt.api_jws.encode(b"[]", rsa_key("one"), "RS256", headers={"kid": "one"}),
        "malformed",
    ),
    "too_long": (lambda: "a" * 8193, "too_long"),
    "sixty_four_kilobytes": (lambda: "a." * 32768, "too_long"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_token_is_refused_with_its_reason(tokens: BearerTokens, name: str) -> None:
    """Whatever is wrong with a token, it verifies nobody and the reason says why."""
    make, reason = HOSTILE[name]
    presented = make()
    assert await refusal(tokens, presented) == reason
    assert await refusal(tokens, presented) == reason


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_binary_junk_is_refused(tokens: BearerTokens, junk: bytes) -> None:
    """Any bytes in place of a token are refused, and raise nothing else."""
    with pytest.raises(IdentityError):
        await tokens.resolve(bearer(junk))


async def test_an_issuer_whose_clock_is_a_little_ahead_is_accepted(tokens: BearerTokens) -> None:
    """`nbf` may lie up to 30 seconds ahead; `iat` is not compared."""
    assert await tokens.resolve(bearer(token(nbf=NOW + 30, iat=NOW + 30))) is not None


async def test_any_of_several_audiences_will_do(tmp_path: Path, clock: Clock) -> None:
    """The token must be for one of the audiences that the operator names."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(rsa_jwk("one")))
    tokens = BearerTokens(FileKeys(path), issuer=ISSUER, audience=["a", "b"], clock=clock)
    assert await tokens.resolve(bearer(token(aud=["x", "b"]))) is not None
    assert await refusal(tokens, token(aud=["x"])) == "audience"


async def test_a_verified_token_is_not_verified_again_and_never_outlives_exp(
    tokens: BearerTokens, clock: Clock, tmp_path: Path
) -> None:
    """The cache answers for a token until its exp, and then refuses it at once."""
    presented = token(exp=NOW + 5)
    assert await tokens.resolve(bearer(presented)) is not None
    (tmp_path / "jwks.json").write_bytes(jwks(rsa_jwk("two")))
    tokens._keys = FileKeys(tmp_path / "jwks.json")
    clock.now += 4.9
    assert await tokens.resolve(bearer(presented)) is not None
    clock.now += 0.1
    assert await refusal(tokens, presented) == "unknown_key"


async def test_an_expired_token_is_refused_though_it_was_cached(
    tokens: BearerTokens, clock: Clock
) -> None:
    """At its exp a cached token is expired."""
    presented = token(exp=NOW + 5)
    assert await tokens.resolve(bearer(presented)) is not None
    clock.now += 5
    assert await refusal(tokens, presented) == "expired"


async def test_a_withdrawn_key_stops_verifying_within_a_minute(
    tokens: BearerTokens, clock: Clock, tmp_path: Path
) -> None:
    """A cached token is verified again after 60 seconds, with the keys of that time."""
    presented = token()
    assert await tokens.resolve(bearer(presented)) is not None
    (tmp_path / "jwks.json").write_bytes(jwks(rsa_jwk("two")))
    tokens._keys = FileKeys(tmp_path / "jwks.json")
    clock.now += 60
    assert await refusal(tokens, presented) == "unknown_key"


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    """The token that was not used for longest leaves a full cache."""
    cache = TokenCache(2, 60)
    alice = Principal("alice")
    for name in (b"a", b"b"):
        cache.put(name, alice, now=0, expires=100)
    assert cache.get(b"a", 1) == alice
    cache.put(b"c", alice, now=1, expires=100)
    assert len(cache) == 2
    assert cache.get(b"b", 1) is None
    assert cache.get(b"a", 1) == alice
    assert cache.get(b"a", 60) is None
    assert len(cache) == 1


async def test_tokens_verify_with_keys_from_a_server(clock: Clock) -> None:
    """A token verifies with keys fetched over HTTP, and made-up kids fetch nothing more."""
    with jwks_server(jwks(rsa_jwk("one"))) as server:
        tokens = BearerTokens(RemoteKeys(server.url), issuer=ISSUER, audience=AUDIENCE, clock=clock)
        assert await tokens.resolve(bearer(token())) == Principal("alice", source="jwt")
        for number in range(5):
            assert (
                await refusal(
                    tokens,
                    token("one").replace(
                        token("one").split(".")[0],
                        segment({"alg": "RS256", "kid": f"made-up-{number}"}),
                    ),
                )
                == "unknown_key"
            )
        assert server.hits == 1


async def test_an_unacceptable_algorithm_fetches_no_keys(clock: Clock) -> None:
    """A token that could never verify does not reach the issuer's server."""

    def fetch(_url: str, _timeout: float) -> bytes:
        raise AssertionError("fetched")

    keys = RemoteKeys("https://issuer.example/jwks", fetch=fetch)
    tokens = BearerTokens(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock)
    assert await refusal(tokens, unsigned()) == "algorithm"
    assert keys._refresh is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithms": ["none"]}, "unsigned tokens"),
        ({"algorithms": ["RS256", "HS256"]}, "shared secrets"),
        ({"algorithms": []}, "write some of"),
        ({"algorithms": "HS256"}, "write some of"),
        ({"issuer": ""}, "jwt.issuer"),
        ({"audience": ""}, "jwt.audience"),
        ({"audience": []}, "jwt.audience"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    """Settings that would accept too much or nothing are refused, with the fix."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(rsa_jwk("one")))
    settings = {"issuer": ISSUER, "audience": AUDIENCE, **arguments}
    with pytest.raises(ConfigError, match=message):
        BearerTokens(FileKeys(path), **settings)
