"""IdentifierBuilder: a reload rebuilds only what its section or its file has changed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fleetlimit import Fleetlimit, RateLimit
from fleetlimit.bootstrap.identity import IdentifierBuilder
from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW
from fleetlimit.policy_file import ApiKeysSection, IdentitySection, JwtSection, parse
from support.identity import (
    AUDIENCE,
    ISSUER,
    api_key_file,
    bearer_request,
    jwks,
    jwks_server,
    lasting_token,
    request,
    rsa_jwk,
    secret_token,
)


async def resolve_user(connection: HTTPConnection) -> Principal | None:
    """Return the principal that a header names."""
    return Principal(connection.headers["x-user"], "pro")


async def test_resolver_receives_the_connection() -> None:
    """The principal that a resolver returns is the caller."""
    identifier = IdentifierBuilder(resolve_user).build(IdentitySection())
    identity = await identifier.identify(request(("X-User", "alice")))
    assert identity.principal == Principal("alice", "pro")


def test_resolver_that_is_not_async_is_an_error() -> None:
    """A resolver is judged before the first request."""
    with pytest.raises(ConfigError, match="write `async def`"):
        IdentifierBuilder(len).build(IdentitySection())  # type: ignore[arg-type] # a mistake


async def hang(_connection: HTTPConnection) -> Principal | None:
    """Never return."""
    await asyncio.Event().wait()
    raise AssertionError


def test_hanging_resolver_does_not_hang_the_app(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """A request waits for `FLEETLIMIT_FUNCTION_TIMEOUT`, and is then counted by its address."""
    monkeypatch.setenv("FLEETLIMIT_FUNCTION_TIMEOUT", "0.001")
    app = FastAPI(lifespan=Fleetlimit(resolver=hang))
    app.add_api_route("/", lambda: None, dependencies=[Depends(RateLimit("5/day"))])
    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(7)] == [*[200] * 5, 429, 429]
    failures = [line for line in log.messages if "identity.resolver_failed" in line]
    assert failures == [
        *["identity.resolver_failed"] * LINES_PER_WINDOW,
        "identity.resolver_failed.suppressed error=TimeoutError suppressed=2",
    ]


def test_wrong_resolver_prevents_the_start() -> None:
    """An app with a resolver that cannot work is not built."""
    with pytest.raises(ConfigError, match=r"the resolver .* is not async"):
        Fleetlimit(resolver=len)  # type: ignore[arg-type] # a mistake


def test_missing_jwks_file_is_an_error(tmp_path: object) -> None:
    """The JWKS file of a `jwt` section must exist."""
    text = (
        "version: 1\nidentity:\n"
        f"  jwt: {{issuer: me, audience: api, jwks: {tmp_path}/jwks.json}}\n"
        "policies: [{name: default, limits: [{rate: 1/day}]}]\n"
    )
    with pytest.raises(ConfigError, match=r"jwks\.json"):
        IdentifierBuilder().build(parse(text).identity)


def section_of(url: str, **changes: Any) -> IdentitySection:
    """Return a section with tokens of an issuer on loopback, which a file may not name."""
    jwt = JwtSection(issuer=ISSUER, audience=AUDIENCE, jwks="https://issuer.example/jwks")
    return IdentitySection(jwt=jwt.model_copy(update={"jwks": url, **changes}))


@pytest.mark.parametrize("changes", [{}, {"tier_claim": "plan"}, {"algorithms": ("RS256",)}])
async def test_last_good_keys_serve_on_while_the_issuer_is_unavailable(
    changes: dict[str, Any],
) -> None:
    """A reload during an outage of the issuer keeps the keys, also for changed token settings."""
    builder = IdentifierBuilder()
    with jwks_server(jwks(rsa_jwk("one"))) as server:
        scope = bearer_request(lasting_token(plan="pro"))
        first = await builder.build(section_of(server.url)).identify(scope)
        assert first.principal == Principal("alice", source="jwt")
    reloaded = builder.build(section_of(server.url, **changes))
    tier = "pro" if "tier_claim" in changes else ""
    assert (await reloaded.identify(scope)).principal == Principal("alice", tier, source="jwt")
    fresh = bearer_request(lasting_token(sub="bob"))
    assert (await reloaded.identify(fresh)).principal == Principal("bob", source="jwt")


async def test_other_issuer_has_keys_of_its_own() -> None:
    """Keys of one URL never verify tokens after the URL has changed."""
    builder = IdentifierBuilder()
    with jwks_server(jwks(rsa_jwk("one"))) as old, jwks_server(jwks(rsa_jwk("two"))) as new:
        scope = bearer_request(lasting_token())
        assert (await builder.build(section_of(old.url)).identify(scope)).principal is not None
        identity = await builder.build(section_of(new.url)).identify(scope)
        assert identity.error is not None
        assert identity.error.reason == "unknown_key"


@pytest.fixture(name="section")
def _section(tmp_path: Path) -> IdentitySection:
    (tmp_path / "jwks.json").write_bytes(jwks(rsa_jwk("one")))
    return IdentitySection(
        trusted_proxies=("10.0.0.0/8",),
        api_keys=ApiKeysSection(file=api_key_file(tmp_path, key="key")),
        jwt=JwtSection(issuer=ISSUER, audience=AUDIENCE, jwks=str(tmp_path / "jwks.json")),
    )


def test_unchanged_section_has_the_same_identifier(section: IdentitySection) -> None:
    """A reload that changes no identity keeps all caches."""
    builder = IdentifierBuilder()
    assert builder.build(section) is builder.build(section.model_copy(deep=True))
    rejecting = section.model_copy(update={"reject_invalid": True})
    assert builder.build(section) is builder.build(rejecting)


async def test_changed_file_is_read_again(section: IdentitySection, tmp_path: Path) -> None:
    """The content of a file counts, and only what depends on it is rebuilt."""
    builder = IdentifierBuilder()
    builder.build(section)
    kept = builder._api_keys
    (tmp_path / "jwks.json").write_bytes(jwks(rsa_jwk("two")))
    identity = await builder.build(section).identify(bearer_request(lasting_token()))
    assert identity.error is not None
    assert identity.error.reason == "unknown_key"
    assert builder._api_keys is kept
    api_key_file(tmp_path, key="other", name="carol")
    identity = await builder.build(section).identify(request(("X-API-Key", "other")))
    assert identity.principal == Principal("carol", source="api_key")


async def test_removed_part_verifies_no_more(section: IdentitySection) -> None:
    """Credentials whose section is gone are no longer read, and can come back."""
    builder = IdentifierBuilder()
    scope = request(("X-API-Key", "key"))
    assert (await builder.build(section).identify(scope)).principal is not None
    removed = builder.build(IdentitySection())
    assert (await removed.identify(scope)).principal is None
    assert (await removed.identify(bearer_request(lasting_token()))).error is None
    assert (await builder.build(section).identify(scope)).principal is not None


@pytest.mark.parametrize("name", ["jwks.json", "keys.yaml"])
@pytest.mark.parametrize("content", [None, "no keys"])
async def test_invalid_file_keeps_the_parts(
    section: IdentitySection, tmp_path: Path, name: str, content: str | None
) -> None:
    """After a rejected change, the repaired file has the same identifier as before."""
    builder = IdentifierBuilder()
    last = builder.build(section)
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError):
        builder.build(section)
    (tmp_path / name).write_bytes(before)
    assert builder.build(section) is last


SHARED = "a-secret-of-32-characters-is-ok!"
OTHER = "https://other.example"


def issuers_section(tmp_path: Path, *names: str, secret: str = SHARED) -> IdentitySection:
    """Return a section with one issuer for each name of a key, and one with a secret."""
    for name in names:
        (tmp_path / name).write_bytes(jwks(rsa_jwk(name)))
    (tmp_path / "secret").write_text(secret)
    entries = [
        {"issuer": f"https://{name}.example", "audience": AUDIENCE, "jwks": str(tmp_path / name)}
        for name in names
    ]
    entries.append({"issuer": OTHER, "audience": AUDIENCE, "secret_file": str(tmp_path / "secret")})
    return IdentitySection.model_validate({"issuers": entries})


async def test_several_issuers_are_accepted_and_no_other(tmp_path: Path) -> None:
    """Each issuer's tokens verify with its own keys."""
    identifier = IdentifierBuilder().build(issuers_section(tmp_path, "one", "two"))
    presented = [
        lasting_token(iss="https://one.example", sub="a"),
        lasting_token(kid="two", iss="https://two.example", sub="b"),
        secret_token(SHARED, iss=OTHER, sub="c", exp=2**40),
    ]
    found = [(await identifier.identify(bearer_request(each))).principal for each in presented]
    assert found == [Principal(name, source="jwt") for name in "abc"]
    identity = await identifier.identify(bearer_request(lasting_token(iss="https://two.example")))
    assert identity.error is not None
    assert identifier.known_tiers is None


async def test_reload_keeps_the_issuers_that_have_not_changed(tmp_path: Path) -> None:
    """Another issuer, or another secret, leaves the keys and verified tokens of the others."""
    builder = IdentifierBuilder()
    first = builder.build(issuers_section(tmp_path, "one"))
    assert builder.build(issuers_section(tmp_path, "one")) is first
    kept = builder._issuers[0]
    newer = "the-new-secret-of-32-characters!"
    second = builder.build(issuers_section(tmp_path, "two", "one", secret=newer))
    assert builder._issuers[1] is kept
    for text, verifies in ((SHARED, False), (newer, True)):
        scope = bearer_request(secret_token(text, iss=OTHER, exp=2**40))
        assert ((await second.identify(scope)).principal is not None) is verifies
    one = IdentitySection.model_validate(
        {"jwt": issuers_section(tmp_path, "one").issuers[0].model_dump(exclude_none=True)}
    )
    builder.build(one)
    assert builder._issuers == [kept]


async def test_bearer_key_beside_tokens(tmp_path: Path) -> None:
    """A key and a token share the header; each is verified, and each has its own error."""
    section = IdentitySection.model_validate(
        {
            "issuers": [
                each.model_dump(exclude_none=True)
                for each in issuers_section(tmp_path, "one").issuers
            ],
            "api_keys": {"scheme": "Bearer", "file": str(api_key_file(tmp_path, key="key"))},
        }
    )
    identifier = IdentifierBuilder().build(section)
    assert (await identifier.identify(bearer_request("key"))).principal == Principal(
        "alice", source="api_key"
    )
    presented = lasting_token(iss="https://one.example", sub="bob")
    assert (await identifier.identify(bearer_request(presented))).principal == Principal(
        "bob", source="jwt"
    )
    errors = [
        (await identifier.identify(bearer_request(each))).error
        for each in ("mallory", lasting_token(iss="https://mallory.example"), "")
    ]
    reasons = [error and error.reason for error in errors]
    assert reasons == ["unknown_api_key", "issuer", "malformed"]


async def test_client_address_header_of_the_section() -> None:
    """The named header of a trusted proxy is the client's address."""
    section = IdentitySection(
        trusted_proxies=("10.0.0.0/8",), client_address_header="CF-Connecting-IP"
    )
    identifier = IdentifierBuilder().build(section)
    scope = request(("CF-Connecting-IP", "198.51.100.7"), client=("10.0.0.1", 80))
    assert (await identifier.identify(scope)).client_address == "198.51.100.7"
