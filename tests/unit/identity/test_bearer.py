"""JwtVerifier: only valid tokens of the issuer for this audience identify a principal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.bearer import CACHED_TOKENS, JwtVerifier
from fleetlimit.identity.jwks import JwksFile, JwksUrl, VerifyingKey
from support.clock import ManualClock
from support.identity import (
    AUDIENCE,
    ISSUER,
    NOW,
    bearer_request,
    jwks,
    jwks_server,
    jwt_segment,
    rejection_reason,
    request,
    rsa_jwk,
    token,
    unsigned,
)


@pytest.mark.parametrize(
    ("kid", "algorithm"), [("one", "RS256"), ("two", "PS256"), ("ec", "ES256")]
)
async def test_valid_token_identifies_its_subject(
    tokens: JwtVerifier, kid: str, algorithm: str
) -> None:
    """The principal is `sub`; the tier is the configured claim."""
    principal = await tokens.resolve(bearer_request(token(kid, algorithm, plan="pro")))
    assert principal == Principal("alice", "pro", source="jwt")


@pytest.mark.parametrize("plan", [None, 3, ["pro"]])
async def test_tier_that_is_not_text_is_ignored(tokens: JwtVerifier, plan: Any) -> None:
    """A missing or structured tier claim gives the empty tier."""
    principal = await tokens.resolve(bearer_request(token(plan=plan)))
    assert principal == Principal("alice", "", source="jwt")


@pytest.mark.parametrize("value", ["bearer", "BEARER", "Bearer "])
async def test_scheme_is_case_insensitive(tokens: JwtVerifier, value: str) -> None:
    """Authentication schemes are case-insensitive (RFC 9110)."""
    assert await tokens.resolve(request(("Authorization", f"{value} {token()}"))) is not None


@pytest.mark.parametrize(
    "headers", [[], [("Authorization", "Basic YTpi")], [("Authorization", "BearerX y")]]
)
async def test_other_schemes_are_ignored(
    tokens: JwtVerifier, headers: list[tuple[str, str]]
) -> None:
    """An Authorization header with another scheme presents no bearer token."""
    assert await tokens.resolve(request(*headers)) is None


async def test_nbf_has_a_leeway_of_30_seconds(tokens: JwtVerifier) -> None:
    """`nbf` may be up to 30 seconds in the future; `iat` is not checked."""
    assert await tokens.resolve(bearer_request(token(nbf=NOW + 30, iat=NOW + 30))) is not None


async def test_any_of_several_audiences_is_accepted(tmp_path: Path, clock: ManualClock) -> None:
    """The token must be for one of the configured audiences."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(rsa_jwk("one")))
    tokens = JwtVerifier(JwksFile(path), issuer=ISSUER, audience=["a", "b"], clock=clock.seconds)
    assert await tokens.resolve(bearer_request(token(aud=["x", "b"]))) is not None
    assert await rejection_reason(tokens, token(aud=["x"])) == "audience"


async def test_cache_entry_expires_at_exp(
    tokens: JwtVerifier, clock: ManualClock, tmp_path: Path
) -> None:
    """A token is verified once until its exp, and again after it."""
    presented = token(exp=NOW + 5)
    assert await tokens.resolve(bearer_request(presented)) is not None
    (tmp_path / "jwks.json").write_bytes(jwks(rsa_jwk("two")))
    tokens._keys = JwksFile(tmp_path / "jwks.json")
    clock.advance(4.9)
    assert await tokens.resolve(bearer_request(presented)) is not None
    clock.advance(0.1)
    assert await rejection_reason(tokens, presented) == "unknown_key"


async def test_cached_token_is_rejected_at_exp(tokens: JwtVerifier, clock: ManualClock) -> None:
    """At its exp a cached token is expired."""
    presented = token(exp=NOW + 5)
    assert await tokens.resolve(bearer_request(presented)) is not None
    clock.advance(5)
    assert await rejection_reason(tokens, presented) == "expired"


async def test_a_withdrawn_key_stops_verifying_within_a_minute(
    tokens: JwtVerifier, clock: ManualClock, tmp_path: Path
) -> None:
    """A cached token is verified again after 60 seconds, with the keys of that time."""
    presented = token()
    assert await tokens.resolve(bearer_request(presented)) is not None
    (tmp_path / "jwks.json").write_bytes(jwks(rsa_jwk("two")))
    tokens._keys = JwksFile(tmp_path / "jwks.json")
    clock.advance(60)
    assert await rejection_reason(tokens, presented) == "unknown_key"


class CountingKeys:
    """Keys of a file, and the number of times that a token was verified with them."""

    def __init__(self, file: JwksFile) -> None:
        self.uses = 0
        self._file = file

    async def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Count the use, and return the key of the file."""
        self.uses += 1
        return await self._file.find(kid, algorithm)


@pytest.fixture(name="keys")
def _keys(tmp_path: Path) -> CountingKeys:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(rsa_jwk("one")))
    return CountingKeys(JwksFile(path))


def false_token(number: int) -> str:
    """Return a token whose signature is of another text; each number makes another token."""
    header, _, signature = token().split(".")
    return f"{header}.{jwt_segment({'sub': 'mallory', 'jti': number})}.{signature}"


async def test_repeated_false_token_is_verified_once(
    keys: CountingKeys, clock: ManualClock
) -> None:
    """A rejection is cached for a minute: a flood of one false token costs one verification."""
    tokens = JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock.seconds)
    for _ in range(3):
        assert await rejection_reason(tokens, false_token(1)) == "signature"
    assert keys.uses == 1
    clock.advance(60)
    assert await rejection_reason(tokens, false_token(1)) == "signature"
    assert keys.uses == 2


async def test_false_tokens_evict_no_verified_token(keys: CountingKeys, clock: ManualClock) -> None:
    """Rejections have a bounded cache of their own."""
    tokens = JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock.seconds)
    assert await tokens.resolve(bearer_request(token())) is not None
    for number in range(CACHED_TOKENS + 1):
        assert await rejection_reason(tokens, f"opaque-{number}") == "malformed"
    assert await tokens.resolve(bearer_request(token())) is not None
    assert keys.uses == 1
    assert len(tokens._rejected) == CACHED_TOKENS


@pytest.mark.parametrize(
    ("presented", "reason"),
    [
        (lambda: token(nbf=NOW + 31), "not_yet_valid"),
        (lambda: token("two"), "unknown_key"),
    ],
)
async def test_rejections_that_time_removes_are_not_cached(
    keys: CountingKeys, clock: ManualClock, presented: Callable[[], str], reason: str
) -> None:
    """A token of a new key, or one that becomes valid, is verified again."""
    tokens = JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock.seconds)
    for _ in range(2):
        assert await rejection_reason(tokens, presented()) == reason
    assert keys.uses == 2


async def test_cached_rejection_is_a_new_error(tokens: JwtVerifier) -> None:
    """The traceback of a cached rejection does not grow with each request."""
    errors = []
    for _ in range(3):
        with pytest.raises(IdentityError) as caught:
            await tokens.resolve(bearer_request("opaque"))
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert {str(error) for error in errors} == {"the token was rejected: malformed"}


async def test_length_of_the_header_is_bounded(keys: CountingKeys, clock: ManualClock) -> None:
    """A header above the bound is neither hashed nor decoded; another scheme is no error."""
    presented = token()
    bound = len(f"Bearer {presented}")
    exact, below = (
        JwtVerifier(
            keys, issuer=ISSUER, audience=AUDIENCE, clock=clock.seconds, max_header_bytes=each
        )
        for each in (bound, bound - 1)
    )
    assert await exact.resolve(bearer_request(presented)) is not None
    assert await rejection_reason(below, presented) == "too_long"
    assert await below.resolve(request(("Authorization", "Basic " + "a" * 5000))) is None
    assert keys.uses == 1


async def test_body_of_a_token_with_a_false_header_is_not_decoded(tokens: JwtVerifier) -> None:
    """The algorithm and the key id are checked before the rest of a token is read."""
    for header, reason in (
        ({"alg": "HS256", "kid": "one"}, "algorithm"),
        ({"alg": "RS256", "kid": "mallory"}, "unknown_key"),
    ):
        presented = f"{jwt_segment(header)}.{'!' * 3000}.{'!' * 300}"
        assert await rejection_reason(tokens, presented) == reason


async def test_keys_from_a_server_verify_tokens(clock: ManualClock) -> None:
    """A token verifies with keys fetched over HTTP, and invented kids cause no further fetch."""
    with jwks_server(jwks(rsa_jwk("one"))) as server:
        tokens = JwtVerifier(
            JwksUrl(server.url), issuer=ISSUER, audience=AUDIENCE, clock=clock.seconds
        )
        assert await tokens.resolve(bearer_request(token())) == Principal("alice", source="jwt")
        for number in range(5):
            assert (
                await rejection_reason(
                    tokens,
                    token("one").replace(
                        token("one").split(".")[0],
                        jwt_segment({"alg": "RS256", "kid": f"made-up-{number}"}),
                    ),
                )
                == "unknown_key"
            )
        assert server.hits == 1


async def test_rejected_algorithm_fetches_no_keys(clock: ManualClock) -> None:
    """A token that can never verify causes no fetch."""

    def fetch(_url: str, _timeout: float) -> bytes:
        raise AssertionError("fetched")

    keys = JwksUrl("https://issuer.example/jwks", fetch=fetch)
    tokens = JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock.seconds)
    assert await rejection_reason(tokens, unsigned()) == "algorithm"
    assert keys._refresh is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithms": ["none"]}, "unsigned tokens"),
        ({"algorithms": ["RS256", "HS256"]}, "with public keys"),
        ({"algorithms": []}, "write some of"),
        ({"algorithms": "HS256"}, "write some of"),
        ({"issuer": ""}, "jwt.issuer"),
        ({"audience": ""}, "jwt.audience"),
        ({"audience": []}, "jwt.audience"),
    ],
)
def test_invalid_settings_are_rejected(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    """Settings that would accept too much or nothing are rejected, with the fix."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(rsa_jwk("one")))
    settings = {"issuer": ISSUER, "audience": AUDIENCE, **arguments}
    with pytest.raises(ConfigError, match=message):
        JwtVerifier(JwksFile(path), **settings)
