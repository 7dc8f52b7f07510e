"""IssuersVerifier: each token is verified by its own issuer's keys and algorithms."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetlimit.core.subject import Principal
from fleetlimit.errors import IdentityError
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.issuers import IssuersVerifier
from fleetlimit.identity.jwks import JwksFile, JwksSource, JwksUrl
from fleetlimit.identity.shared_secret import SharedSecret
from support.clock import ManualClock
from support.identity import (
    AUDIENCE,
    CLAIMS,
    ISSUER,
    bearer_request,
    jwks,
    jwks_server,
    jwt_segment,
    request,
    rsa_jwk,
    secret_token,
    token,
    unsigned,
)

OTHER = "https://other.example"
THIRD = "https://third.example"
SHARED = "a-secret-of-32-characters-is-ok!"
NEWER = "the-new-secret-of-32-characters!"
Make = Callable[..., JwtVerifier]


@pytest.fixture(name="keys")
def _keys(tmp_path: Path) -> dict[str, JwksFile]:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(jwks(rsa_jwk(name)))
    return {name: JwksFile(tmp_path / name) for name in ("one", "two")}


def secret(folder: Path, text: str) -> SharedSecret:
    (folder / text).write_text(text)
    return SharedSecret(folder / text)


@pytest.fixture(name="make")
def _make(clock: ManualClock) -> Make:
    def make(
        source: JwksSource | SharedSecret, issuer: str = ISSUER, **options: str
    ) -> JwtVerifier:
        algorithms = ["HS256"] if isinstance(source, SharedSecret) else ["RS256"]
        return JwtVerifier(
            source,
            issuer=issuer,
            audience=options.get("audience", AUDIENCE),
            algorithms=algorithms,
            tier_claim=options.get("tier_claim", ""),
            clock=clock.seconds,
        )

    return make


@pytest.fixture(name="issuers")
def _issuers(make: Make, keys: dict[str, JwksFile], tmp_path: Path) -> IssuersVerifier:
    return IssuersVerifier(
        [
            make(keys["one"]),
            make(keys["two"], OTHER, tier_claim="plan"),
            make(secret(tmp_path, SHARED), THIRD),
        ]
    )


async def reason_of(issuers: IssuersVerifier, presented: str | bytes) -> str:
    with pytest.raises(IdentityError) as caught:
        await issuers.resolve(bearer_request(presented))
    assert caught.value.scheme == "Bearer"
    return caught.value.reason


async def test_each_issuer_verifies_its_own_tokens(issuers: IssuersVerifier) -> None:
    """Keys, algorithms and the tier's claim are those of the token's issuer."""
    for _ in range(2):
        first = await issuers.resolve(bearer_request(token("one", plan="pro")))
        assert first == Principal("alice", source="jwt")
        second = await issuers.resolve(bearer_request(token("two", iss=OTHER, plan="pro")))
        assert second == Principal("alice", "pro", source="jwt")
        third = await issuers.resolve(bearer_request(secret_token(SHARED, iss=THIRD)))
        assert third == Principal("alice", source="jwt")


@pytest.mark.parametrize(
    ("presented", "reason"),
    [
        (token("two"), "unknown_key"),
        (token("one", iss=OTHER), "unknown_key"),
        (token("one", iss=THIRD), "algorithm"),
        (secret_token(SHARED), "algorithm"),
        (secret_token(SHARED, iss=OTHER), "algorithm"),
        (secret_token(NEWER, iss=THIRD), "signature"),
        (token(iss="https://mallory.example"), "issuer"),
        (token(iss=None), "claims"),
        (token(exp=1), "expired"),
        (unsigned(), "algorithm"),
        ("", "malformed"),
        ("opaque", "malformed"),
        ("..", "malformed"),
        ("a.b.c.d", "malformed"),
        (f"{jwt_segment({'alg': 'RS256'})}.{jwt_segment([CLAIMS])}.AA", "malformed"),
        (f"{jwt_segment({'alg': 'RS256'})}.{jwt_segment(b'[' * 2500)}.AA", "malformed"),
        (f"AA.{jwt_segment({'iss': [ISSUER]})}.AA", "claims"),
        (f"AA.{jwt_segment({'iss': {}})}.AA", "claims"),
        ("a" * 4096, "too_long"),
        ("a." * 32768, "too_long"),
    ],
)
async def test_token_of_no_issuer_is_rejected(
    issuers: IssuersVerifier, presented: str, reason: str
) -> None:
    """The keys of one issuer never verify a token that names another one."""
    assert await reason_of(issuers, presented) == reason
    assert await reason_of(issuers, presented) == reason


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_binary_junk_is_rejected(issuers: IssuersVerifier, junk: bytes) -> None:
    """Any bytes in place of a token raise `IdentityError` and nothing else."""
    with pytest.raises(IdentityError):
        await issuers.resolve(bearer_request(junk))


@pytest.mark.parametrize("headers", [[], [("Authorization", "Basic YTpi")]])
async def test_other_credentials_are_ignored(
    issuers: IssuersVerifier, headers: list[tuple[str, str]]
) -> None:
    """Without a bearer token there is no principal and no error."""
    assert await issuers.resolve(request(*headers)) is None


async def test_invented_tokens_never_fetch_another_issuers_keys(
    make: Make, keys: dict[str, JwksFile]
) -> None:
    """A token makes the keys of no issuer be fetched but those of the one that it names."""
    with jwks_server(jwks(rsa_jwk("two"))) as server:
        issuers = IssuersVerifier([make(keys["one"]), make(JwksUrl(server.url), OTHER)])
        assert await reason_of(issuers, token("mallory")) == "unknown_key"
        assert await reason_of(issuers, token("two", iss="https://mallory.example")) == "issuer"
        assert server.hits == 0
        assert await issuers.resolve(bearer_request(token("two", iss=OTHER))) is not None
        assert server.hits == 1


async def test_issuer_may_change_its_secret(make: Make, tmp_path: Path) -> None:
    """While two entries have one issuer, tokens of either secret verify."""
    issuers = IssuersVerifier([make(secret(tmp_path, NEWER)), make(secret(tmp_path, SHARED))])
    for text in (NEWER, SHARED):
        assert await issuers.resolve(bearer_request(secret_token(text))) is not None
        # The entry whose key fits names the reason.
        assert await reason_of(issuers, secret_token(text, exp=1)) == "expired"
    assert await reason_of(issuers, secret_token("x" * 32)) == "signature"


async def test_issuer_may_have_two_audiences_and_kinds_of_keys(
    make: Make, keys: dict[str, JwksFile], tmp_path: Path
) -> None:
    """Entries of one issuer differ in audience or kind of key; one of them must accept a token."""
    issuers = IssuersVerifier(
        [make(keys["one"]), make(keys["one"], audience="b"), make(secret(tmp_path, SHARED))]
    )
    assert await issuers.resolve(bearer_request(token(aud="b"))) is not None
    assert await issuers.resolve(bearer_request(secret_token(SHARED))) is not None
    assert await reason_of(issuers, token(aud="c")) == "audience"
    assert await reason_of(issuers, secret_token(SHARED, aud="b")) == "audience"


async def test_token_that_may_be_valid_is_not_rejected_for_good(
    make: Make, keys: dict[str, JwksFile]
) -> None:
    """While the keys of one entry are unavailable, the answer asks for a retry."""
    with jwks_server(b"") as server:
        server.status = 503
        issuers = IssuersVerifier([make(JwksUrl(server.url)), make(keys["one"])])
        with pytest.raises(IdentityError) as caught:
            await issuers.resolve(bearer_request(token("two")))
    assert caught.value.reason == "keys_unavailable"
    assert caught.value.retry_after is not None
