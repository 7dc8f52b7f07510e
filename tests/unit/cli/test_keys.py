"""Commands `keys new` and `hash`: new API keys, and the hashes of callers."""

import asyncio
import hashlib
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleetlimit import Fleetlimit, Principal, Settings, Subject, cli
from fleetlimit.bootstrap.build import build_key_scheme
from fleetlimit.errors import ConfigError, KeySecretError
from fleetlimit.identity import ApiKeyVerifier
from fleetlimit.stores.embedded import EmbeddedValkey

SECRET = "a secret of the fleet"  # noqa: S105 - no secret outside this file


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return exit status, output and error output."""
    result = CliRunner().invoke(cli.app, arguments)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


async def principal_of(file: Path, key: str) -> Principal | None:
    scope = {"type": "http", "headers": [(b"x-api-key", key.encode())]}
    return await ApiKeyVerifier(file).resolve(scope)


async def test_keys_new_prints_a_key_and_its_line(tmp_path: Path) -> None:
    """The key file with the printed line knows the printed key."""
    status, out, err = run("keys", "new", "alice", "--tier", "pro")
    key, line = out.splitlines()
    assert status == 0
    assert key.startswith("fl_")
    assert len(key) >= 40
    assert key not in line + err
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n  {line}\n")
    assert await principal_of(file, key) == Principal("alice", "pro", "api_key")


def test_keys_new_prints_json() -> None:
    """`--json` prints one object; without a tier it has none."""
    made = json.loads(run("keys", "new", "bob", "--json")[1])
    assert made == {
        "key": made["key"],
        "sha256": hashlib.sha256(made["key"].encode()).hexdigest(),
        "principal": "bob",
    }


def test_keys_new_makes_another_key_each_time() -> None:
    """Two keys differ."""
    assert len({run("keys", "new", "alice")[1] for _ in range(5)}) == 5


@pytest.mark.parametrize("name", ["no", "123", "a: b", "#x", '"', "ä", "null", "a\\b", "-", "a,b}"])
async def test_keys_new_quotes_any_name(tmp_path: Path, name: str) -> None:
    """A name that YAML would read as something else is in quotes."""
    file = tmp_path / "keys.yaml"
    key = run("keys", "new", "--tier", name, "--append", str(file), "--", name)[1].splitlines()[0]
    assert await principal_of(file, key) == Principal(name, name, "api_key")


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257])
def test_keys_new_rejects_a_name_that_no_key_file_has(name: str) -> None:
    """An invalid name is an error before a key exists."""
    with pytest.raises(ConfigError):
        run("keys", "new", name)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "keys: []\n",
        "# ours\nkeys:\n- {sha256: HASH, principal: old}\n",
        "keys:\n    # first\n    - sha256: HASH\n      principal: old\n      tier: pro\n# end",
    ],
)
async def test_keys_new_appends_to_a_key_file(tmp_path: Path, text: str | None) -> None:
    """The hash is appended, all other lines stay, and a new file is readable by its owner only."""
    file = tmp_path / "keys.yaml"
    if text is not None:
        text = text.replace("HASH", hashlib.sha256(b"old key").hexdigest())
        file.write_text(text)
        file.chmod(0o640)
    first = run("keys", "new", "alice", "--append", str(file))[1].splitlines()[0]
    second = run("keys", "new", "bob", "--tier", "pro", "--append", str(file))[1].splitlines()[0]
    assert await principal_of(file, first) == Principal("alice", "", "api_key")
    assert await principal_of(file, second) == Principal("bob", "pro", "api_key")
    assert stat.S_IMODE(file.stat().st_mode) == (0o600 if text is None else 0o640)
    if text is not None and "old" in text:
        assert file.read_text().startswith(text)
        assert await principal_of(file, "old key")
    assert len([*tmp_path.iterdir()]) == 1  # noqa: ASYNC240 - a test


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys: [{sha256: HASH, principal: old}]\n", "no line can be appended to this list"),
        ('{"keys": []}', "no line can be appended to this list"),
        ("keys: 7\n", "keys"),
        ("other: []\n", "unknown field"),
    ],
)
def test_keys_new_leaves_another_file_as_it_is(tmp_path: Path, text: str, message: str) -> None:
    """A list that no line can be appended to, or an invalid file, is an error without a change."""
    file = tmp_path / "keys.yaml"
    text = text.replace("HASH", hashlib.sha256(b"old key").hexdigest())
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        run("keys", "new", "alice", "--append", str(file))
    assert file.read_text() == text


def test_keys_new_reports_a_missing_directory(tmp_path: Path) -> None:
    """A file that cannot be written is an error."""
    with pytest.raises(ConfigError, match="cannot be written"):
        run("keys", "new", "alice", "--append", str(tmp_path / "none" / "keys.yaml"))


def test_hash_is_that_of_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is the one that a limiter with these settings writes to logs and /top."""
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", SECRET)
    expected = build_key_scheme(Settings.load()).subject_hash(Subject(principal=Principal("alice")))
    assert run("hash", "alice") == (0, f"{expected}\n", "")
    assert run("hash", "bob")[1] != f"{expected}\n"


def test_hash_without_a_secret_warns() -> None:
    """Without a secret the replicas may have another one."""
    status, out, err = run("hash", "alice")
    assert status == 0
    assert len(out) == 17
    assert "set FLEETLIMIT_KEY_SECRET to that of the replicas" in err


def test_hash_of_an_address_has_the_prefix_of_the_policy_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses of one IPv6 network are one caller."""
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", SECRET)
    scheme = build_key_scheme(Settings.load())
    out = run("hash", "--address", "192.0.2.1")[1]
    assert out == f"{scheme.subject_hash(Subject('192.0.2.1'))}\n"
    assert run("hash", "--address", "::ffff:192.0.2.1")[1] == out
    ours = [run("hash", "--address", f"2001:db8:0:{each}::1")[1] for each in (1, 2)]
    assert ours[0] != ours[1]
    file = tmp_path / "policies.yaml"
    file.write_text("version: 1\nidentity: {ipv6_prefix: 48}\npolicies: []\n")
    wide = [
        run("hash", "--address", f"2001:db8:0:{each}::1", "--policies", str(file))[1]
        for each in (1, 2)
    ]
    assert wide[0] == wide[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "write the name of a caller, or --address"),
        (["alice", "--address", "192.0.2.1"], "write the name of a caller, or --address"),
        ([""], "the principal is empty"),
        (["--address", "192.0.2"], "is not an IP address: write one, as 192.0.2.1"),
    ],
)
def test_hash_rejects_what_is_no_caller(arguments: list[str], message: str) -> None:
    """The message says what to write."""
    with pytest.raises(ConfigError, match=message):
        run("hash", *arguments)


def test_hash_compares_the_secret_with_that_of_the_replicas(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another secret than theirs the hash would be found nowhere, so it is an error."""

    async def serve_once() -> None:
        async with Fleetlimit(store=valkey.url):
            pass

    monkeypatch.setenv("FLEETLIMIT_KEY_PREFIX", "hashes")
    # Far above what a busy machine needs.
    monkeypatch.setenv("FLEETLIMIT_STORE_TIMEOUT", "60")
    monkeypatch.setenv("FLEETLIMIT_STORE_CONNECT_TIMEOUT", "60")
    monkeypatch.setenv("FLEETLIMIT_STORE", valkey.url)
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", SECRET)
    assert "has no record of a replica" in run("hash", "alice")[2]
    asyncio.run(serve_once())
    assert run("hash", "alice")[2] == ""
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", "another secret of 16 bytes")
    with pytest.raises(KeySecretError, match="hash callers with another key secret"):
        run("hash", "alice")
    monkeypatch.setenv("FLEETLIMIT_STORE", "redis://127.0.0.1:1")
    assert "was not compared with that of the replicas" in run("hash", "alice")[2]
