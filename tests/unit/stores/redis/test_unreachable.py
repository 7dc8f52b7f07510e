"""Unreachable and wrong servers: the error has the right kind, and is raised in time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import anyio
import pytest

from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import StoreError, StoreRejected, StoreUnavailable
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.store import RedisStore
from support.eventually import PATIENCE_SECONDS
from support.stores import BUCKET, SHORT_TIMEOUTS, quota_of, raises_store_error, redis_store, spend
from support.tracing import exact_cancellation

QUOTA = quota_of(Algorithm.FIXED_WINDOW, 1_000)


async def _heartbeat(store: RedisStore) -> None:
    await store.heartbeat("replica", 1)


async def _spend(store: RedisStore) -> None:
    await spend(store, QUOTA)


@contextlib.asynccontextmanager
async def tcp(said: bytes) -> AsyncIterator[str]:
    """Serve something that is not a store: it sends these bytes after any data."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        # The client may close the connection on an invalid reply.
        with contextlib.suppress(ConnectionError):
            while await reader.read(1_024):
                writer.write(said)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        listening.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@exact_cancellation
async def test_silent_server_is_a_timeout() -> None:
    """A port that accepts connections and sends nothing times out, in `open` and in calls."""
    async with tcp(b"") as url:
        store = redis_store(url, timeouts=SHORT_TIMEOUTS)
        async with raises_store_error(StoreUnavailable, "timeout"):
            await store.open()
        async with raises_store_error(StoreUnavailable, "timeout"):
            await spend(store, QUOTA)
        await store.aclose()


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\r\n", b"+OK\r\n"])
async def test_server_of_another_protocol_is_a_store_error(said: bytes) -> None:
    """A port with another protocol is a store error, and never another exception."""
    async with tcp(said) as url:
        for ask in (_heartbeat, _spend):
            store = redis_store(url, timeouts=SHORT_TIMEOUTS)
            with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(StoreError):
                await ask(store)
            await store.aclose()


async def test_closed_port_is_unavailable() -> None:
    """A closed port is an error at once."""
    with EmbeddedValkey() as server:
        url = server.url
    store = redis_store(url)
    for ask in (RedisStore.open, _heartbeat):
        async with raises_store_error(StoreUnavailable, "connection"):
            await ask(store)
    async with raises_store_error(StoreUnavailable, "connection"):
        await store.delete([BUCKET])
    await store.aclose()


async def test_location_has_no_credentials() -> None:
    """The location of a store has no credentials."""
    store = redis_store("redis://ann:pw@127.0.0.1:6379/3")
    assert (store.location, store.shared) == ("redis://127.0.0.1:6379/3", True)
    await store.aclose()


@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:pw@"])
async def test_wrong_password_is_an_error(credentials: str) -> None:
    """With a wrong password every first call is an `authentication` error."""
    with EmbeddedValkey("--requirepass", "right") as server:
        url = f"redis://{credentials}127.0.0.1:{server.port}"
        for ask in (RedisStore.open, _heartbeat):
            store = redis_store(url)
            async with raises_store_error(StoreRejected, "authentication"):
                await ask(store)
            await store.aclose()
        store = redis_store(f"redis://:right@127.0.0.1:{server.port}")
        await store.open()
        await store.aclose()
