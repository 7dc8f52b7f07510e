"""Builders of the parts: their settings, and the variable in each error."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.credentials import CredentialProvider

from fleetlimit import Fleetlimit, PolicySet
from fleetlimit.bootstrap.build import build_key_scheme, build_store
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.errors import ConfigError
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from fleetlimit.testing import ManualClock

SHORT, LONG, OTHER = "s3cret", "0123456789abcdef", "another"


@pytest.mark.parametrize("url", ["memory://", "memory"])
def test_memory_url_builds_a_memory_store(url: str) -> None:
    """`memory://` is the store of this process."""
    settings = Settings.load(store=url)
    assert isinstance(build_store(settings, build_key_scheme(settings)), MemoryStore)


async def test_redis_url_builds_a_redis_store() -> None:
    """A Redis URL builds a shared store, whose location has no credentials."""
    settings = Settings.load(store="redis://user:s3cret@store:1234/5", store_password=OTHER)
    store = build_store(settings, build_key_scheme(settings), ManualClock())
    assert isinstance(store, RedisStore)
    assert store.location == "redis://store:1234/5"
    await store.aclose()


@pytest.mark.parametrize("url", ["localhost:6379", "postgres://db", "", "redis://", "redis://a,b"])
@pytest.mark.parametrize("source", ["argument", "settings", "variable", "file"])
def test_invalid_store_url_names_its_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, url: str
) -> None:
    """The error names the argument, variable or file that the URL is from."""
    given: dict[str, Any] = {}
    expected = "store"
    if source == "argument":
        monkeypatch.setenv("FLEETLIMIT_STORE", "redis://another")
        given = {"store": url}
    elif source == "settings":
        given = {"settings": Settings(store=url)}
    elif source == "variable":
        # An empty variable counts as unset.
        monkeypatch.setenv("FLEETLIMIT_STORE", url or " ")
        expected = "FLEETLIMIT_STORE"
    else:
        (tmp_path / "fleetlimit_store").write_text(f"{url}\n")
        monkeypatch.setenv("FLEETLIMIT_SECRETS_DIR", str(tmp_path))
        expected = str(tmp_path / "fleetlimit_store")
    with pytest.raises(ConfigError, match=rf"^{expected}: .*write (memory|redis)") as caught:
        Fleetlimit(policies=PolicySet(), **given)
    assert "another" not in str(caught.value)


class Token(CredentialProvider):
    """Provider of a token."""

    def get_credentials(self) -> tuple[str]:
        """Return the token."""
        return ("first",)


async def test_credentials_reach_the_store(tmp_path: Path) -> None:
    """A limiter connects with the credentials of a file, or of a provider in code."""
    file = tmp_path / "login"
    await asyncio.to_thread(file.write_text, "first\n")
    with EmbeddedValkey("--requirepass", "first") as server:
        for given in (
            {"settings": Settings(store=server.url, store_credentials_file=file)},
            {"store": server.url, "credential_provider": Token()},
        ):
            async with Fleetlimit(policies=PolicySet(), **given) as fleetlimit:
                assert await fleetlimit.limiter.reset(principal="alice") == 0


def test_missing_credentials_file_prevents_the_start(tmp_path: Path) -> None:
    """The error names the file that the setting names."""
    settings = Settings(store="redis://store", store_credentials_file=tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"credentials file .*/gone cannot be read: No such"):
        Fleetlimit(policies=PolicySet(), settings=settings)


def test_short_key_secret_names_the_argument() -> None:
    """The error of a secret that is too short does not repeat it."""
    settings = Settings.load(key_secret=SHORT)
    with pytest.raises(ConfigError, match=r"^key_secret: ") as raised:
        build_key_scheme(settings)
    assert "s3cret" not in str(raised.value)


def test_invalid_key_prefix_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a prefix does not blame the secret."""
    monkeypatch.setenv("FLEETLIMIT_KEY_PREFIX", "a{b}")
    with pytest.raises(ConfigError, match=r"^FLEETLIMIT_KEY_PREFIX: ") as raised:
        build_key_scheme(Settings())
    assert "SECRET" not in str(raised.value)


def test_key_secret_changes_the_hashes() -> None:
    """The hash of an identity depends on the secret."""
    plain = build_key_scheme(Settings.load())
    keyed = build_key_scheme(Settings.load(key_secret=LONG))
    assert plain.digest("alice") != keyed.digest("alice")
