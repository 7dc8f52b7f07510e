"""Credentials that change while the store is in use: from a file, and from a provider in code."""

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.credentials import CredentialProvider

from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import ConfigError, StoreError, StoreRejected
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.credentials import MAX_FILE_BYTES, MAX_THREADS, Credentials
from fleetlimit.stores.redis.store import RedisStore
from support.cluster import cluster
from support.eventually import PATIENCE_SECONDS, eventually_async
from support.sentinel import PASSWORD, sentinel
from support.stores import quota_of, raises_store_error, redis_store, spend

QUOTA = quota_of(Algorithm.FIXED_WINDOW, 1_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a credentials file with the password `first`."""
    path = tmp_path / "password"
    path.write_text("first\n")
    return path


@pytest.fixture
def server() -> Iterator[EmbeddedValkey]:
    """Return a server whose password is `first`."""
    with EmbeddedValkey("--requirepass", "first") as found:
        yield found


def write(file: Path, text: str) -> None:
    """Write a credentials file."""
    file.write_text(text)


def replace(file: Path, make: Callable[[Path], object]) -> None:
    """Make something else in place of a file or directory."""
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    make(file)


async def change_password(server: EmbeddedValkey, old: str, new: str) -> None:
    """Change the password of a server, and close all its connections."""
    async with redis.asyncio.Redis(port=server.port, password=old) as admin:
        await admin.config_set("requirepass", new)
        await admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]  # untyped driver


async def decides(store: RedisStore) -> bool:
    """Return whether the store decides a check."""
    with contextlib.suppress(StoreError):
        await spend(store, QUOTA)
        return True
    return False


@contextlib.asynccontextmanager
async def opened(url: str, credentials: Credentials) -> AsyncIterator[RedisStore]:
    """Open a store and close it."""
    store = redis_store(url, credentials=credentials)
    try:
        await store.open()
        yield store
    finally:
        await store.aclose()


async def test_changed_file_is_read_at_the_next_connection(
    server: EmbeddedValkey, file: Path
) -> None:
    """A password that changes while the store is open needs no restart."""
    async with opened(server.url, Credentials(file=file)) as store:
        await spend(store, QUOTA)
        write(file, "second\n")
        await change_password(server, "first", "second")
        assert await eventually_async(lambda: decides(store))
        assert await store.delete(["fl2:{caller}:policy:limit"]) == 1


async def test_old_password_is_an_error_until_the_file_changes(
    server: EmbeddedValkey, file: Path
) -> None:
    """A file that is changed after the server fails the calls until then, and no longer."""
    async with opened(server.url, Credentials(file=file)) as store:
        await change_password(server, "first", "second")
        async with raises_store_error(StoreRejected, "authentication"):
            await eventually_async(lambda: _spend_unless_closed(store))
        write(file, "second")
        await store.open()
        await spend(store, QUOTA)


async def _spend_unless_closed(store: RedisStore) -> bool:
    """Spend, and ignore that the server closes the connection meanwhile."""
    try:
        await spend(store, QUOTA)
    except StoreRejected:
        raise
    except StoreError:
        return False
    return False


async def test_file_may_have_another_user(server: EmbeddedValkey, file: Path) -> None:
    """With two lines, the file has the user, too; it takes precedence over the setting."""
    async with redis.asyncio.Redis(port=server.port, password="first") as admin:  # noqa: S106 - an example
        for name in ("ann", "bob"):
            await admin.execute_command("ACL", "SETUSER", name, "on", f">{name}s", "~*", "+@all")  # type: ignore[no-untyped-call]  # untyped driver
        write(file, "ann\r\nanns\r\n")
        async with opened(server.url, Credentials("carl", file=file)) as store:
            await spend(store, QUOTA)
            write(file, "bob\nbobs\n")
            # The server closes the connections of a user that it deletes.
            await admin.execute_command("ACL", "DELUSER", "ann")  # type: ignore[no-untyped-call]  # untyped driver
            assert await eventually_async(lambda: decides(store))
            names = {client["user"] for client in await admin.client_list()}
            assert "bob" in names


@pytest.mark.parametrize("credentials", [{"username": "ann"}, {}])
async def test_file_with_a_password_keeps_the_user(
    server: EmbeddedValkey, file: Path, credentials: dict[str, Any]
) -> None:
    """With one line, the user is that of the setting or of the URL."""
    async with redis.asyncio.Redis(port=server.port, password="first") as admin:  # noqa: S106 - an example
        await admin.execute_command("ACL", "SETUSER", "ann", "on", ">anns", "~*", "+@all")  # type: ignore[no-untyped-call]  # untyped driver
    write(file, "anns")
    user = "" if credentials else "ann:ignored@"
    url = f"redis://{user}127.0.0.1:{server.port}"
    async with opened(url, Credentials(file=file, **credentials)) as store:
        await spend(store, QUOTA)


async def test_file_applies_to_a_cluster(file: Path) -> None:
    """Every node of a Cluster receives the file's credentials."""
    with cluster() as found:
        for index in range(len(found.nodes)):
            found.run(index, "ACL", "SETUSER", "ann", "on", ">first", "~*", "+@all")
        async with opened(found.url, Credentials("ann", file=file)) as store:
            write(file, "second")
            for index in range(len(found.nodes)):
                found.run(index, "ACL", "SETUSER", "ann", "resetpass", ">second")
                found.run(index, "CLIENT", "KILL", "USER", "ann")
            assert await eventually_async(lambda: decides(store))


async def test_file_applies_to_the_primary_behind_sentinel(
    server: EmbeddedValkey, file: Path
) -> None:
    """The sentinels keep their own credentials."""
    with sentinel(server) as port:
        url = f"redis+sentinel://127.0.0.1:{port}/main?sentinel_password={PASSWORD}"
        async with redis.asyncio.Redis(port=port, password=PASSWORD) as admin:
            await admin.execute_command("SENTINEL", "SET", "main", "auth-pass", "first")  # type: ignore[no-untyped-call]  # untyped driver
        async with opened(url, Credentials(file=file)) as store:
            write(file, "second")
            await change_password(server, "first", "second")
            assert await eventually_async(lambda: decides(store))


def _directory(path: Path) -> None:
    path.mkdir()


def _missing(_path: Path) -> None:
    pass


def _content(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


BAD_FILES: list[tuple[Callable[[Path], object], str]] = [
    (_missing, "cannot be read: No such file or directory"),
    (_directory, "is not a file: write the password on one line, or the user and"),
    (os.mkfifo, "is not a file: write the password on one line"),
    (_content(b""), "is empty: write the password on one line"),
    (_content(b" \r\n\n"), "is empty"),
    (_content(b"ann\n\nanns"), "has an empty line"),
    (_content(b"s3cret\nb\nc\n"), "has 3 lines: write the password on one line"),
    (_content(b"s3cret\xff"), "is not in UTF-8"),
    (_content(b"x" * (MAX_FILE_BYTES + 1)), f"has more than {MAX_FILE_BYTES} bytes"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FILES)
def test_unusable_file_is_an_error_at_start(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    """The error names the file and what to write, and repeats nothing of it."""
    make(tmp_path / "login")
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/login {message}")) as caught:
        Credentials(file=tmp_path / "login")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("make", "message"), BAD_FILES)
async def test_unusable_file_is_an_error_at_the_next_connection(
    server: EmbeddedValkey, file: Path, make: Callable[[Path], object], message: str
) -> None:
    """The error of the connection says what is wrong with the file, which is then read again."""
    store = redis_store(server.url, credentials=Credentials(file=file))
    replace(file, make)
    async with raises_store_error(StoreRejected, "authentication"):
        await spend(store, QUOTA)
    with pytest.raises(StoreRejected, match=f"{re.escape(message)}.*$") as caught:
        await store.open()
    assert "FLEETLIMIT_STORE_PASSWORD" not in str(caught.value)
    replace(file, _content(b"first"))
    await store.open()
    await spend(store, QUOTA)
    await store.aclose()


class Provider(CredentialProvider):
    """Provider that returns or raises what the test gives."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def get_credentials(self) -> Any:
        """Return the credentials."""
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


class AsyncProvider(Provider):
    """The same, without blocking."""

    async def get_credentials_async(self) -> Any:
        """Return the credentials."""
        return self.get_credentials()


@pytest.mark.parametrize("kind", [Provider, AsyncProvider])
async def test_provider_is_asked_at_each_connection(
    server: EmbeddedValkey, kind: type[Provider]
) -> None:
    """A provider returns a new token when the server no longer accepts the old one."""
    provider = kind(("first",))
    async with opened(server.url, Credentials(provider=provider)) as store:
        provider.given = ("default", "second")
        await change_password(server, "first", "second")
        assert await eventually_async(lambda: decides(store))


@pytest.mark.parametrize("kind", [Provider, AsyncProvider])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ValueError("no token"), "the credential provider failed: ValueError: no token"),
        ("s3cret", "returned a str in place of (password,) or (username, password)"),
        (None, "returned a NoneType"),
        ((), "returned a tuple"),
        (("s3cret", None), "returned a tuple"),
        (("a", "s3cret", "c"), "returned a tuple"),
    ],
)
async def test_failed_provider_fails_the_connection(
    server: EmbeddedValkey, kind: type[Provider], given: Any, message: str
) -> None:
    """A provider that fails is a store error, and is asked again at the next connection."""
    provider = kind(given)
    store = redis_store(server.url, credentials=Credentials(provider=provider))
    with pytest.raises(StoreRejected, match=re.escape(message)) as caught:
        await spend(store, QUOTA)
    assert caught.value.kind == "authentication"
    assert "s3cret" not in str(caught.value)
    provider.given = ("first",)
    assert await decides(store)
    await store.aclose()


class HangingProvider(CredentialProvider):
    """Provider that does not return until the test ends."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def get_credentials(self) -> tuple[str]:
        """Wait."""
        self.ended.wait()
        return ("late",)


async def test_provider_that_hangs_leaves_the_threads_of_the_event_loop_to_the_app() -> None:
    """Any number of connections that wait for credentials occupy no thread of the app."""
    provider = HangingProvider()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    checked = Credentials(provider=provider).options("", "")["credential_provider"]
    waiting = [
        asyncio.ensure_future(checked.get_credentials_async()) for _ in range(2 * MAX_THREADS)
    ]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.to_thread(int)
    finally:
        provider.ended.set()
        await asyncio.wait(waiting)


@pytest.mark.parametrize("given", ["token", Provider, object()])
def test_provider_of_another_type_is_an_error(given: Any) -> None:
    """A class or a token in place of a provider fails at start."""
    with pytest.raises(ConfigError, match="give an instance of a subclass of redis"):
        Credentials(provider=given)


def test_credentials_are_given_once(file: Path) -> None:
    """A password that would have no effect is an error."""
    with pytest.raises(ConfigError, match="leave out FLEETLIMIT_STORE_PASSWORD or FLEETLIMIT_ST"):
        Credentials(password="s3cret", file=file)  # noqa: S106 - an example
    provider = Provider(("first",))
    for others in ({"username": "a"}, {"password": "b"}, {"file": file}):
        with pytest.raises(ConfigError, match="leave them out of the store URL and of FLEETLIMIT"):
            Credentials(**others, provider=provider)
    for url in ("redis://ann@store", "redis://:pw@store", "redis+cluster://a:b@store"):
        with pytest.raises(ConfigError, match="leave them out of the store URL"):
            redis_store(url, credentials=Credentials(provider=provider))
