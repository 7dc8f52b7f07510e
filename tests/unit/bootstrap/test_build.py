"""Each part is built from settings, and says which variable does not fit."""

import pytest
from starlette.requests import HTTPConnection

from fleetlimit.bootstrap.build import build_identifier, build_key_scheme, build_store
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError
from fleetlimit.policy_file import IdentitySection, parse
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from fleetlimit.testing import ManualClock

SHORT, LONG, OTHER = "s3cret", "0123456789abcdef", "another"


@pytest.mark.parametrize("url", ["memory://", "memory"])
def test_memory(url: str) -> None:
    """`memory://` is this process."""
    settings = Settings.load(store=url)
    assert isinstance(build_store(settings, build_key_scheme(settings)), MemoryStore)


async def test_a_store_for_all() -> None:
    """Another URL is a shared store, told to people without its password."""
    settings = Settings.load(store="redis://user:s3cret@store:1234/5", store_password=OTHER)
    store = build_store(settings, build_key_scheme(settings), ManualClock())
    assert isinstance(store, RedisStore)
    assert store.location == "redis://store:1234/5"
    await store.aclose()


def test_no_store() -> None:
    """A URL that is no store's names its variable."""
    settings = Settings.load(store="postgres://db")
    with pytest.raises(
        ConfigError, match="FLEETLIMIT_STORE: 'postgres://db' is not a store: write"
    ):
        build_store(settings, build_key_scheme(settings))


def test_a_short_secret() -> None:
    """A key secret that is too short names its variable and is not repeated."""
    settings = Settings.load(key_secret=SHORT)
    with pytest.raises(ConfigError, match="FLEETLIMIT_KEY_SECRET") as refused:
        build_key_scheme(settings)
    assert "s3cret" not in str(refused.value)


def test_identities_depend_on_the_secret() -> None:
    """Under a secret an identity has another hash than without."""
    plain = build_key_scheme(Settings.load())
    keyed = build_key_scheme(Settings.load(key_secret=LONG))
    assert plain.digest("alice") != keyed.digest("alice")


async def test_a_resolver_sees_the_request() -> None:
    """One's own resolver reads the connection, and its principal is the caller."""

    async def resolver(connection: HTTPConnection) -> Principal | None:
        return Principal(connection.headers["x-user"], "pro")

    identifier = build_identifier(IdentitySection(), resolver)
    scope = {"type": "http", "headers": [(b"x-user", b"alice")], "client": ("192.0.2.1", 1)}
    identity = await identifier.identify(scope)
    assert identity.principal == Principal("alice", "pro")


def test_identity_of_a_file(tmp_path: object) -> None:
    """Tokens are verified with the keys that the file names, which must be there."""
    text = (
        "version: 1\nidentity:\n"
        f"  jwt: {{issuer: me, audience: api, jwks: {tmp_path}/jwks.json}}\n"
        "policies: [{name: default, limits: [{rate: 1/day}]}]\n"
    )
    with pytest.raises(ConfigError, match=r"jwks\.json"):
        build_identifier(parse(text).identity, None)
