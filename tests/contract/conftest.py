"""The stores that must all behave alike, on a clock that the test moves, in each way to travel."""

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from fleetlimit.limiter.ports import Store
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.clock import ManualClock
from support.ways import Batching, make_store, use_batching

IN_CLUSTER = (Batching.COALESCED, Batching.SINGLE)
SHARED = [*(("valkey", way) for way in Batching), *(("cluster", way) for way in IN_CLUSTER)]


@pytest.fixture
def clock() -> ManualClock:
    """Return the clock that all stores of a test run on."""
    return ManualClock()


@pytest.fixture(params=list(Batching))
def way(request: pytest.FixtureRequest) -> Iterator[Batching]:
    """Return how the checks of a test travel to a shared store."""
    with use_batching(request.param) as found:
        yield found


@contextlib.asynccontextmanager
async def _emptied(
    request: pytest.FixtureRequest, kind: str, way: Batching, clock: ManualClock
) -> AsyncIterator[RedisStore]:
    url = (
        request.getfixturevalue("cluster_url")
        if kind == "cluster"
        else request.getfixturevalue("valkey").url
    )
    store = make_store(way, url, now_us=clock)
    await store.open()
    await store.client.flushall()
    yield store
    await store.aclose()


@pytest.fixture
async def shared_store(
    request: pytest.FixtureRequest, clock: ManualClock, way: Batching
) -> AsyncIterator[RedisStore]:
    """Return an empty store in a server, or in a cluster, as the parameter says."""
    async with _emptied(request, getattr(request, "param", "valkey"), way, clock) as store:
        yield store


@pytest.fixture(
    params=["memory", *SHARED],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Store]:
    """Return an empty store of each kind, in each way to it."""
    if request.param == "memory":
        memory = MemoryStore(clock)
        yield memory
        await memory.aclose()
        return
    kind, way = request.param
    with use_batching(way):
        async with _emptied(request, kind, way, clock) as shared:
            yield shared
