"""Store behind Sentinel: it finds the primary, and errors name the failed sentinels."""

import contextlib
from collections.abc import Iterator

import pytest
import redis.asyncio

from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import StoreError, StoreRejected, StoreUnavailable
from fleetlimit.stores.embedded import EmbeddedValkey, free_port
from support.eventually import eventually_async
from support.frozen import frozen
from support.sentinel import PASSWORD, sentinel
from support.stores import SHORT_TIMEOUTS, quota_of, redis_store, spend


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Return the port of a sentinel."""
    with EmbeddedValkey() as server, sentinel(server) as port:
        yield port


async def test_primary_is_found_and_all_connections_are_closed(port: int) -> None:
    """The primary serves the store, and after `aclose` no connection is left to either."""
    async with redis.asyncio.Redis(port=port, password=PASSWORD) as admin:
        before = await admin.client_list()
        store = redis_store(f"redis+sentinel://127.0.0.1:{port}/main?sentinel_password={PASSWORD}")
        await store.open()
        assert (await spend(store, quota_of(Algorithm.TOKEN_BUCKET, 5))).remaining == 4
        assert len(await admin.client_list()) > len(before)
        await store.aclose()

        async def left() -> bool:
            return len(await admin.client_list()) == len(before)

        # The server notices closed connections with a delay.
        assert await eventually_async(left)


@pytest.mark.parametrize(
    ("query", "expected", "kind", "words"),
    [
        ("main?sentinel_password=wrong", StoreRejected, "authentication", "invalid username"),
        ("main", StoreRejected, "authentication", "sentinel_password"),
        (f"other?sentinel_password={PASSWORD}", StoreUnavailable, "connection", "'other'"),
    ],
)
async def test_sentinel_error_has_the_cause(
    port: int, query: str, expected: type[StoreError], kind: str, words: str
) -> None:
    """A wrong password for the sentinel and a wrong service name are reported."""
    store = redis_store(f"redis+sentinel://127.0.0.1:{port}/{query}")
    with pytest.raises(expected) as caught:
        await store.open()
    await store.aclose()
    assert caught.value.kind == kind
    assert words in str(caught.value)


async def test_unavailable_sentinels_are_in_the_error() -> None:
    """The error has each failed sentinel's address and cause, and nothing else."""
    one, two = free_port(), free_port()
    store = redis_store(f"redis+sentinel://127.0.0.1:{one},127.0.0.1:{two}/main")
    with pytest.raises(StoreUnavailable) as caught:
        await store.open()
    await store.aclose()
    assert caught.value.kind == "connection"
    for port in (one, two):
        assert f"sentinel 127.0.0.1:{port}: Error 111 connecting" in str(caught.value)
    assert "redis.asyncio" not in str(caught.value)


async def test_primary_is_found_behind_sentinels_that_do_not_reply(port: int) -> None:
    """Each failed search asks the sentinels in another order, and one finds the primary."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(EmbeddedValkey()) for _ in range(3)]
        for each in silent:
            stack.enter_context(frozen(each))
        hosts = ",".join(f"127.0.0.1:{each}" for each in [*(s.port for s in silent), port])
        store = redis_store(
            f"redis+sentinel://{hosts}/main?sentinel_password={PASSWORD}", timeouts=SHORT_TIMEOUTS
        )

        async def opened() -> bool:
            with contextlib.suppress(StoreError):
                await store.open()
                return True
            return False

        try:
            assert await eventually_async(opened)
        finally:
            await store.aclose()
