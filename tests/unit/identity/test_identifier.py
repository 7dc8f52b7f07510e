"""RequestIdentifier: the first credential that verifies identifies the caller; it never raises."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fleetlimit.identity
from fleetlimit.core.subject import Identity, Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity import (
    ApiKeyVerifier,
    ClientAddressResolver,
    IdentityErrorReason,
    RequestIdentifier,
    jwt_verifier,
)
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.jwks import JwksFile
from fleetlimit.web.http_limiter import Identifier
from support.clock import ManualClock
from support.identity import AUDIENCE, ISSUER, jwks, request, rsa_jwk, token

KEY = ("X-API-Key", "alice-key")
BAD_KEY = ("X-API-Key", "guess")
BAD_TOKEN = ("Authorization", "Bearer guess")


def good_token() -> tuple[str, str]:
    return ("Authorization", f"Bearer {token(sub='bob')}")


async def custom(scope: Mapping[str, Any]) -> Principal | None:
    """Verify the header `X-Custom`: its value is the name, except `bad`, `bug` and `text`."""
    name = dict(scope["headers"]).get(b"x-custom", b"").decode()
    match name:
        case "":
            return None
        case "bad":
            raise IdentityError("bad", reason="cookie")
        case "bug":
            raise ZeroDivisionError
        case "text":
            return "carol"  # type: ignore[return-value] # what a careless resolver does
        case _:
            return Principal(name, "gold", source="jwt")


@pytest.fixture(name="identifier")
def _identifier(tmp_path: Path) -> Identifier:
    keys = tmp_path / "keys.yaml"
    digest = hashlib.sha256(b"alice-key").hexdigest()
    keys.write_text(f"keys: [{{sha256: {digest}, principal: alice, tier: pro}}]")
    document = tmp_path / "jwks.json"
    document.write_bytes(jwks(rsa_jwk("one")))
    tokens = JwtVerifier(
        JwksFile(document), issuer=ISSUER, audience=AUDIENCE, clock=ManualClock().seconds
    )
    return RequestIdentifier(
        ClientAddressResolver(), api_keys=ApiKeyVerifier(keys), jwt=tokens, resolver=custom
    )


ALICE = Principal("alice", "pro", source="api_key")
BOB = Principal("bob", source="jwt")
CAROL = Principal("carol", "gold", source="custom")


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        ([KEY], ALICE),
        ([good_token()], BOB),
        ([("X-Custom", "carol")], CAROL),
        ([KEY, good_token(), ("X-Custom", "carol")], ALICE),
        ([good_token(), ("X-Custom", "carol")], BOB),
        ([BAD_KEY, good_token()], BOB),
        ([KEY, BAD_TOKEN], ALICE),
        ([BAD_KEY, BAD_TOKEN, ("X-Custom", "carol")], CAROL),
    ],
)
async def test_first_valid_credential_identifies_the_principal(
    identifier: Identifier, headers: list[tuple[str, str]], principal: Principal
) -> None:
    """The order is API key, token, custom resolver; a valid credential clears earlier errors."""
    assert await identifier.identify(request(*headers)) == Identity("192.0.2.1", principal)


@pytest.mark.parametrize(
    ("headers", "reason", "scheme"),
    [
        ([BAD_KEY], "unknown_api_key", "APIKey"),
        ([("X-API-Key", "k" * 1025)], "too_long", "APIKey"),
        ([BAD_TOKEN], "malformed", "Bearer"),
        ([("Authorization", "Bearer " + "a" * 4096)], "too_long", "Bearer"),
        ([BAD_KEY, BAD_TOKEN], "unknown_api_key", "APIKey"),
        ([("X-Custom", "bad")], "cookie", "Custom"),
        ([BAD_TOKEN, ("X-Custom", "bad")], "malformed", "Bearer"),
    ],
)
async def test_invalid_credential_is_an_error_without_a_principal(
    identifier: Identifier, headers: list[tuple[str, str]], reason: str, scheme: str
) -> None:
    """The caller is counted by address, and the error is the first one."""
    identity = await identifier.identify(request(*headers))
    assert identity.client_address == "192.0.2.1"
    assert identity.principal is None
    assert identity.error is not None
    assert identity.error.reason == reason
    assert identity.error.scheme == scheme


@pytest.mark.parametrize("name", ["bug", "text"])
async def test_failing_resolver_does_not_fail_the_request(
    identifier: Identifier, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception or a wrong result of a resolver is logged, and the request is anonymous."""
    identity = await identifier.identify(request(("X-Custom", name)))
    again = await identifier.identify(request(BAD_KEY, ("X-Custom", name)))
    assert identity.principal is None
    assert identity.error is not None
    assert identity.error.reason == IdentityErrorReason.RESOLVER_FAILED
    assert again.error is not None
    assert again.error.reason == IdentityErrorReason.UNKNOWN_API_KEY
    assert [(each.name, each.message) for each in caplog.records] == [
        ("fleetlimit", "identity.resolver_failed")
    ] * 2
    assert all(each.exc_info for each in caplog.records)


@pytest.mark.parametrize("headers", [[], [("Authorization", "Basic YTpi")]])
async def test_missing_credential_is_no_error(
    identifier: Identifier, headers: list[tuple[str, str]]
) -> None:
    """A request without a known credential has only an address."""
    assert await identifier.identify(request(*headers)) == Identity("192.0.2.1")


async def test_unconfigured_credentials_are_ignored() -> None:
    """Without verifiers every request is anonymous."""
    identity = await RequestIdentifier(ClientAddressResolver()).identify(request(KEY, BAD_TOKEN))
    assert identity == Identity("192.0.2.1")


async def test_two_callers_never_share_an_identity(identifier: Identifier) -> None:
    """Each credential and address is an identity (fastapi-limiter #80, PyrateLimiter #238)."""
    scopes = [
        request(KEY),
        request(good_token()),
        request(("X-Custom", "alice")),
        request(),
        request(client=("192.0.2.2", 1)),
    ]
    identities = [await identifier.identify(scope) for scope in scopes]
    assert len({(who.client_address, who.principal) for who in identities}) == len(scopes)


def test_public_names_are_sorted_and_exist() -> None:
    """`__all__` lists the package's public names."""
    names = fleetlimit.identity.__all__
    assert names == sorted(names)
    assert all(hasattr(fleetlimit.identity, name) for name in names)


@pytest.mark.parametrize("missing", ["jwt", "cryptography.hazmat.primitives.asymmetric.rsa"])
def test_missing_pyjwt_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyJWT or cryptography, the error of a verifier names the extra to install."""
    for name in ("fleetlimit.identity.bearer", "fleetlimit.identity.jwks"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"needs PyJWT: pip install 'fleetlimit\[jwt\]'"):
        jwt_verifier("jwks.json", issuer=ISSUER, audience=AUDIENCE, algorithms=["RS256"])


def test_other_missing_modules_are_not_blamed_on_pyjwt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing module that is not part of the extra is raised as it is."""
    for name in ("fleetlimit.identity.bearer", "fleetlimit.identity.jwks"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anyio.to_thread", None)
    with pytest.raises(ModuleNotFoundError, match="anyio"):
        jwt_verifier("jwks.json", issuer=ISSUER, audience=AUDIENCE, algorithms=["RS256"])


def test_import_does_not_need_pyjwt() -> None:
    """Without PyJWT and cryptography, everything but bearer tokens can be imported."""
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('jwt', 'cryptography'))\n"
        "import fleetlimit.identity, fleetlimit.bootstrap.build"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
