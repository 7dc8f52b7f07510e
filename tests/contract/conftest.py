"""The stores that must all behave alike, on a clock that the test moves, in each way to travel."""

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from fleetlimit.limiter.ports import Store
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.clock import MovedClock
from support.ways import Way, going, store_on

IN_CLUSTER = (Way.FOLDED, Way.SINGLE)
SHARED = [*(("valkey", way) for way in Way), *(("cluster", way) for way in IN_CLUSTER)]


@pytest.fixture
def clock() -> MovedClock:
    """Return the clock that all stores of a test run on."""
    return MovedClock()


@pytest.fixture(params=list(Way))
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Return how the checks of a test travel to a shared store."""
    with going(request.param) as found:
        yield found


@contextlib.asynccontextmanager
async def _emptied(
    request: pytest.FixtureRequest, kind: str, way: Way, clock: MovedClock
) -> AsyncIterator[RedisStore]:
    url = (
        request.getfixturevalue("cluster_url")
        if kind == "cluster"
        else request.getfixturevalue("valkey").url
    )
    store = store_on(way, url, now_us=clock)
    await store.open()
    await store.client.flushall()
    yield store
    await store.aclose()


@pytest.fixture
async def shared_store(
    request: pytest.FixtureRequest, clock: MovedClock, way: Way
) -> AsyncIterator[RedisStore]:
    """Return an empty store in a server, or in a cluster, as the parameter says."""
    async with _emptied(request, getattr(request, "param", "valkey"), way, clock) as store:
        yield store


@pytest.fixture(
    params=["memory", *SHARED],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
async def store(request: pytest.FixtureRequest, clock: MovedClock) -> AsyncIterator[Store]:
    """Return an empty store of each kind, in each way to it."""
    if request.param == "memory":
        memory = MemoryStore(clock)
        yield memory
        await memory.aclose()
        return
    kind, way = request.param
    with going(way):
        async with _emptied(request, kind, way, clock) as shared:
            yield shared
