"""The stores that must all behave alike, on a clock that the test moves."""

from collections.abc import AsyncIterator

import pytest

from headgate.limiter.ports import Store
from headgate.stores.memory import MemoryStore
from headgate.stores.redis import RedisStore
from support.clock import MovedClock
from support.stores import redis_store


@pytest.fixture
def clock() -> MovedClock:
    """Return the clock that all stores of a test run on."""
    return MovedClock()


@pytest.fixture
async def shared_store(
    request: pytest.FixtureRequest, clock: MovedClock
) -> AsyncIterator[RedisStore]:
    """Return an empty store in a server, or in a cluster, as the parameter says."""
    cluster = getattr(request, "param", "valkey") == "cluster"
    url = (
        request.getfixturevalue("cluster_url") if cluster else request.getfixturevalue("valkey").url
    )
    store = redis_store(url, now_us=clock)
    await store.open()
    await store.client.flushall()
    yield store
    await store.aclose()


@pytest.fixture(params=["memory", "valkey", "cluster"])
async def store(request: pytest.FixtureRequest, clock: MovedClock) -> AsyncIterator[Store]:
    """Return an empty store of each kind."""
    if request.param == "memory":
        memory = MemoryStore(clock)
        yield memory
        await memory.aclose()
        return
    url = (
        request.getfixturevalue("cluster_url")
        if request.param == "cluster"
        else request.getfixturevalue("valkey").url
    )
    shared = redis_store(url, now_us=clock)
    await shared.open()
    await shared.client.flushall()
    yield shared
    await shared.aclose()
