"""Credentials are read as FastAPI's security classes of the installed version read them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.security import APIKeyHeader, HTTPBearer, OAuth2PasswordBearer
from starlette.requests import Request

from fleetlimit.core.subject import Principal
from fleetlimit.errors import IdentityError
from fleetlimit.identity import ApiKeyVerifier
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.credentials import read_bearer_token
from support.identity import api_key_file, bearer_request, request, token

HTTP_BEARER = HTTPBearer(auto_error=False)
OAUTH2 = OAuth2PasswordBearer("/token", auto_error=False)
API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False)
BLANKS = [bytes([code]) for code in range(256) if chr(code).isspace()]
"""White space of latin-1, in which Starlette decodes headers."""

PLACES: dict[str, Callable[[bytes], bytes]] = {
    "before the scheme": lambda byte: byte + b"Bearer abc",
    "in the scheme": lambda byte: b"Bea" + byte + b"rer abc",
    "in place of a letter": lambda byte: b"Bearer"[:5] + byte + b" abc",
    "before the blank": lambda byte: b"Bearer" + byte + b" abc",
    "in place of the blank": lambda byte: b"Bearer" + byte + b"abc",
    "before the token": lambda byte: b"Bearer " + byte + b"abc",
    "in the token": lambda byte: b"Bearer a" + byte + b"bc",
    "after the token": lambda byte: b"Bearer abc" + byte,
    "alone": lambda byte: b"Bearer " + byte,
    "twice around": lambda byte: b"Bearer " + byte + b" abc " + byte,
}


@pytest.mark.parametrize("place", PLACES)
async def test_bearer_token_is_what_fastapi_reads(place: str) -> None:
    """For all 256 bytes, a token that a security class accepts is read, without blanks around."""
    for code in range(256):
        value = PLACES[place](bytes([code]))
        connection = Request(request(("Authorization", value)))
        oauth2 = await OAUTH2(connection)
        bearer = await HTTP_BEARER(connection)
        found = read_bearer_token(value)
        assert found == (None if oauth2 is None else oauth2.strip()), value
        assert bearer is None or bearer.credentials.strip() == found, value


@pytest.mark.parametrize("value", [b"", b" ", b"Bearer", b"bearer", b"Basic YTpi", b"BEARER  a b "])
async def test_headers_without_a_token_are_what_fastapi_reads(value: bytes) -> None:
    """A header without a token or with another scheme is read alike."""
    oauth2 = await OAUTH2(Request(request(("Authorization", value))))
    assert read_bearer_token(value) == (None if oauth2 is None else oauth2.strip())


@pytest.mark.parametrize("blank", BLANKS)
async def test_blanks_around_a_token_do_not_hide_it(tokens: JwtVerifier, blank: bytes) -> None:
    """A token between blanks identifies the same principal as without them."""
    presented = blank + token().encode() + blank
    assert await tokens.resolve(bearer_request(presented)) == Principal("alice", source="jwt")


async def test_first_of_several_headers_counts(tokens: JwtVerifier, tmp_path: Path) -> None:
    """A repeated header is read as Starlette reads it: the first line."""
    scope = request(("Authorization", f"Bearer {token()}"), ("Authorization", "Bearer x"))
    accepted = await HTTP_BEARER(Request(scope))
    assert accepted is not None
    assert accepted.credentials == token()
    assert await tokens.resolve(scope) == Principal("alice", source="jwt")
    keys = ApiKeyVerifier(api_key_file(tmp_path, key="alice"))
    scope = request(("X-API-Key", "alice"), ("X-API-Key", "guess"))
    assert await API_KEY(Request(scope)) == "alice"
    assert await keys.resolve(scope) == Principal("alice", source="api_key")


@pytest.mark.parametrize("place", ["before", "in", "after", "alone"])
async def test_api_key_is_what_fastapi_reads(tmp_path: Path, place: str) -> None:
    """For all 256 bytes, a key is the header as it is, and an empty header is no key."""
    for code in range(256):
        byte = bytes([code])
        key = {
            "before": byte + b"key",
            "in": b"k" + byte + b"ey",
            "after": b"key" + byte,
            "alone": byte,
        }[place]
        scope = request(("X-API-Key", key))
        accepted = await API_KEY(Request(scope))
        assert accepted is not None
        keys = ApiKeyVerifier(api_key_file(tmp_path, key=accepted.encode("latin-1")))
        assert await keys.resolve(scope) == Principal("alice", source="api_key"), key
        with pytest.raises(IdentityError):
            await keys.resolve(request(("X-API-Key", b"x" + key)))


@pytest.mark.parametrize("headers", [[], [("X-API-Key", "")]])
async def test_empty_api_key_is_no_key(tmp_path: Path, headers: list[tuple[str, str]]) -> None:
    """`APIKeyHeader` accepts neither a missing nor an empty header."""
    keys = ApiKeyVerifier(api_key_file(tmp_path, key="alice"))
    assert await API_KEY(Request(request(*headers))) is None
    assert await keys.resolve(request(*headers)) is None
