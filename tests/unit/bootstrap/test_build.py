"""Builders of the parts: their settings, and the variable in each error."""

import asyncio
from pathlib import Path

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


def test_invalid_store_url_names_the_variable() -> None:
    """The error of another URL names the variable and the fix."""
    settings = Settings.load(store="postgres://db")
    with pytest.raises(
        ConfigError, match="FLEETLIMIT_STORE: 'postgres://db' is not a store: write"
    ):
        build_store(settings, build_key_scheme(settings))


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


def test_short_key_secret_names_the_variable() -> None:
    """The error of a secret that is too short does not repeat it."""
    settings = Settings.load(key_secret=SHORT)
    with pytest.raises(ConfigError, match="FLEETLIMIT_KEY_SECRET") as raised:
        build_key_scheme(settings)
    assert "s3cret" not in str(raised.value)


def test_key_secret_changes_the_hashes() -> None:
    """The hash of an identity depends on the secret."""
    plain = build_key_scheme(Settings.load())
    keyed = build_key_scheme(Settings.load(key_secret=LONG))
    assert plain.digest("alice") != keyed.digest("alice")
