"""ApiKeyVerifier: only keys whose hash is in the file identify a principal."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity import ApiKeyVerifier
from fleetlimit.identity.api_keys import MAX_FILE_BYTES
from support.identity import lasting_token, request

ALICE = hashlib.sha256(b"alice-key").hexdigest()
BOB = hashlib.sha256(b"bob-key").hexdigest()
GOOD = f"""\
keys:
  - {{sha256: {ALICE}, principal: alice, tier: pro}}
  - sha256: {BOB.upper()}
    principal: 0123
    tier:
"""


def write(folder: Path, text: str | bytes, name: str = "keys.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


async def test_known_key_identifies_its_principal_and_tier(tmp_path: Path) -> None:
    """The SHA-256 of the presented key finds the principal; values are taken as written."""
    keys = ApiKeyVerifier(write(tmp_path, GOOD))
    alice = await keys.resolve(request(("X-API-Key", "alice-key")))
    assert alice == Principal("alice", "pro", source="api_key")
    bob = await keys.resolve(request(("X-API-Key", "bob-key")))
    assert bob == Principal("0123", "", source="api_key")


async def test_header_can_be_configured(tmp_path: Path) -> None:
    """The key is read from the configured header only."""
    keys = ApiKeyVerifier(write(tmp_path, GOOD), header="Api-Token")
    assert await keys.resolve(request(("X-API-Key", "alice-key"))) is None
    assert await keys.resolve(request(("Api-Token", "alice-key"))) is not None


async def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """A JSON file is valid YAML."""
    document = json.dumps({"keys": [{"sha256": ALICE, "principal": "alice"}]}, indent="\t")
    keys = ApiKeyVerifier(write(tmp_path, b"\xef\xbb\xbf" + document.encode(), "keys.json"))
    assert await keys.resolve(request(("X-API-Key", "alice-key"))) == Principal(
        "alice", source="api_key"
    )


@pytest.mark.parametrize("headers", [[], [("X-API-Key", "")]])
async def test_missing_key_is_no_error(tmp_path: Path, headers: list[tuple[str, str]]) -> None:
    """A request without a key, or with an empty one, presents no credential."""
    assert await ApiKeyVerifier(write(tmp_path, GOOD)).resolve(request(*headers)) is None


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"guess", "unknown_api_key"),
        (ALICE.encode(), "unknown_api_key"),
        (b"\xff\x00\xfe", "unknown_api_key"),
        (b"k" * 1024, "unknown_api_key"),
        (b"k" * 1025, "too_long"),
        (b"k" * 65536, "too_long"),
    ],
)
async def test_hostile_keys_are_rejected(tmp_path: Path, key: bytes, reason: str) -> None:
    """Unknown, huge and binary keys do not verify, and messages do not quote them."""
    with pytest.raises(IdentityError) as caught:
        await ApiKeyVerifier(write(tmp_path, GOOD)).resolve(request(("X-API-Key", key)))
    assert caught.value.reason == reason
    assert "guess" not in str(caught.value)


ERRORS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "keys.yaml:1: keys: Field required"),
    "list": ("- a", "write `keys:`"),
    "no_keys": ("other: 1", "keys: Field required"),
    "unknown_top_name": ("keys: []\nkesy: []", "keys.yaml:2: .*write one of keys"),
    "unknown_name": (
        f"keys:\n- sha256: {ALICE}\n  principal: a\n  hunter2-secret: x",
        "keys.yaml:4: .*write one of sha256, principal, tier",
    ),
    "plain_key": (
        "keys:\n- principal: a\n  sha256: hunter2-secret",
        r"keys.yaml:3: keys.0.sha256: .*sha256sum",
    ),
    "no_principal": (f"keys:\n\n- sha256: {ALICE}", "keys.yaml:3: keys.0.principal: Field"),
    "empty_principal": (f"keys:\n- sha256: {ALICE}\n  principal: ''", "keys.yaml:3: "),
    "duplicate": (
        f"keys:\n- {{sha256: {ALICE}, principal: a}}\n- {{sha256: {ALICE}, principal: b}}",
        r"keys.yaml:3: keys\[1\] has the same hash as keys\[0\]",
    ),
    "repeated_key": ("keys: []\nkeys: []", "keys.yaml:2: this key occurs twice"),
    "name_in_place_of_a_word": (
        f"keys:\n- {{sha256: {ALICE}, principal: true}}",
        "keys.yaml:2: keys.0.principal: Input should be a valid string",
    ),
    "undefined_alias": ("keys:\n- principal: *hunter2-secret", "keys.yaml:2: .*in quotes"),
    "undefined_tag": ("keys:\n- principal: !hunter2-secret", "keys.yaml:2: .*quote"),
    "undefined_tag_handle": ("keys:\n- principal: !hunter2!secret", "keys.yaml:2: .*found undef"),
    "binary": (b"\xff\xfe\x00hunter2-secret", "save the file as UTF-8"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_invalid_yaml_file_is_rejected_with_its_line(tmp_path: Path, name: str) -> None:
    """Each error has the file and, where known, the line, and never quotes a value."""
    text, message = ERRORS[name]
    with pytest.raises(ConfigError, match=message) as caught:
        ApiKeyVerifier(write(tmp_path, text))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"keys": hunter2-secret}', "keys.json:2: keys: Input should be"),
        ('{"keys": [], "keys": []}', "keys.json:1: this key occurs twice"),
        ('{"keys":\n[{"sha256": 7, "principal": "a"}]}', "keys.json:2: keys.0.sha256: not 64"),
        ("[" * 100_000, "nested more than 32 deep|maximum nesting depth"),
    ],
)
def test_invalid_json_file_is_rejected_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    """JSON errors have the file and the line."""
    with pytest.raises(ConfigError, match=message) as caught:
        ApiKeyVerifier(write(tmp_path, text, "keys.json"))
    assert "hunter2" not in str(caught.value)


def test_all_errors_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    """Two errors are one message with both lines."""
    text = "keys:\n- {sha256: x, principal: a}\n- {sha256: y, principal: b}"
    with pytest.raises(ConfigError, match=r"keys.yaml:2: .*\n.*keys.yaml:3: "):
        ApiKeyVerifier(write(tmp_path, text))


def test_file_size_is_bounded(tmp_path: Path) -> None:
    """A file larger than a ConfigMap is read; a file above the bound is not."""
    path = write(tmp_path, f"{GOOD}#{'k' * 2**20}")
    assert ApiKeyVerifier(path)
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="above 16,777,216 bytes"):
        ApiKeyVerifier(path)


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    """A missing file is a configuration error."""
    with pytest.raises(ConfigError, match="No such file"):
        ApiKeyVerifier(tmp_path / "none.yaml")


def test_invalid_header_name_is_rejected(tmp_path: Path) -> None:
    """A header name with a space cannot be sent."""
    with pytest.raises(ConfigError, match="write X-API-Key"):
        ApiKeyVerifier(write(tmp_path, GOOD), header="X API Key")


def bearer(value: str | bytes) -> dict[str, Any]:
    """Return a request with this `Authorization` header."""
    return request(("Authorization", value))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_key_can_follow_a_scheme(tmp_path: Path, scheme: str) -> None:
    """With `Authorization: Bearer <key>` the key is read as FastAPI's `HTTPBearer` reads it."""
    keys = ApiKeyVerifier(write(tmp_path, GOOD), header="Authorization", scheme="Bearer")
    principal = await keys.resolve(bearer(f"{scheme} alice-key"))
    assert principal == Principal("alice", "pro", source="api_key")


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic alice-key", "alice-key", "BearerX alice-key"]
)
async def test_header_without_a_key_of_the_scheme_is_ignored(tmp_path: Path, value: str) -> None:
    """Another scheme is another credential, and an empty key is none."""
    keys = ApiKeyVerifier(write(tmp_path, GOOD), header="Authorization", scheme="Bearer")
    assert await keys.resolve(bearer(value)) is None


async def test_header_is_the_key_alone_without_a_scheme(tmp_path: Path) -> None:
    """The name of a scheme is then part of the key, which is unknown."""
    keys = ApiKeyVerifier(write(tmp_path, GOOD), header="Authorization")
    assert await keys.resolve(bearer("alice-key")) is not None
    with pytest.raises(IdentityError):
        await keys.resolve(bearer("Bearer alice-key"))


@pytest.mark.parametrize(
    ("scheme", "challenge"), [("bearer", "Bearer"), ("Token", "Token"), ("", "APIKey")]
)
async def test_challenge_names_the_scheme(tmp_path: Path, scheme: str, challenge: str) -> None:
    """`WWW-Authenticate` asks for the scheme that the key was sent with."""
    keys = ApiKeyVerifier(write(tmp_path, GOOD), header="Authorization", scheme=scheme)
    with pytest.raises(IdentityError) as caught:
        await keys.resolve(bearer(f"{scheme or 'x'} mallory"))
    assert (caught.value.reason, caught.value.scheme) == ("unknown_api_key", challenge)


JWT_LIKE = [lasting_token(), "a.b.c", "a..", f"{'a' * 2000}.{'b' * 1000}.c"]


@pytest.mark.parametrize("presented", JWT_LIKE)
async def test_unknown_key_like_a_token_is_left_to_the_tokens_verifier(
    tmp_path: Path, presented: str
) -> None:
    """The error of such a credential is that of the token; without tokens it is an unknown key."""
    path = write(tmp_path, GOOD)
    keys = ApiKeyVerifier(path, header="Authorization", scheme="Bearer", accepts_tokens=True)
    assert await keys.resolve(bearer(f"Bearer {presented}")) is None
    keys = ApiKeyVerifier(path, header="Authorization", scheme="Bearer")
    with pytest.raises(IdentityError):
        await keys.resolve(bearer(f"Bearer {presented}"))
    keys = ApiKeyVerifier(path, header="X-API-Key", accepts_tokens=True)
    with pytest.raises(IdentityError):
        await keys.resolve(request(("X-API-Key", presented)))


@pytest.mark.parametrize("presented", ["opaque", "a.b", "a.b.c.d", ".b.c", "a.b.c d", "x" * 2000])
async def test_unknown_key_unlike_a_token_is_an_error(tmp_path: Path, presented: str) -> None:
    """Beside tokens, an unknown key is an unknown key, not a malformed token."""
    path = write(tmp_path, GOOD)
    keys = ApiKeyVerifier(path, header="Authorization", scheme="Bearer", accepts_tokens=True)
    with pytest.raises(IdentityError) as caught:
        await keys.resolve(bearer(f"Bearer {presented}"))
    assert caught.value.reason in {"unknown_api_key", "too_long"}


async def test_known_key_may_look_like_a_token(tmp_path: Path) -> None:
    """A key with two dots is found before its form is looked at."""
    digest = hashlib.sha256(b"sk.live.1234").hexdigest()
    path = write(tmp_path, f"keys: [{{sha256: {digest}, principal: dotted}}]")
    keys = ApiKeyVerifier(path, header="Authorization", scheme="Bearer", accepts_tokens=True)
    assert await keys.resolve(bearer("Bearer sk.live.1234")) == Principal(
        "dotted", source="api_key"
    )


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_bytes_after_the_scheme_are_no_known_key(tmp_path: Path, junk: bytes) -> None:
    """Any bytes in place of a key raise `IdentityError` or are no credential."""
    path = write(tmp_path, GOOD)
    keys = ApiKeyVerifier(path, header="Authorization", scheme="Bearer", accepts_tokens=True)
    with contextlib.suppress(IdentityError):
        assert await keys.resolve(bearer(b"Bearer " + junk)) is None


@pytest.mark.parametrize("scheme", ["Bearer ", " ", "Bea rer", "B\xe9arer", "1", "a" * 33])
def test_invalid_scheme_is_an_error(tmp_path: Path, scheme: str) -> None:
    """A scheme is a word."""
    with pytest.raises(ConfigError, match="write Bearer"):
        ApiKeyVerifier(write(tmp_path, GOOD), scheme=scheme)
