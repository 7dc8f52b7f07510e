"""Stores that must behave alike, on a manual clock, for each kind of batching."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest

from fleetlimit.limiter.ports import Store
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.batching import Batching, open_empty_store, use_batching
from support.clock import ManualClock

IN_CLUSTER = (Batching.COALESCED, Batching.SINGLE)
SHARED = [("valkey", kind) for kind in Batching] + [("cluster", kind) for kind in IN_CLUSTER]


@pytest.fixture
def clock() -> ManualClock:
    """Return the clock that all stores of a test run on."""
    return ManualClock()


@pytest.fixture(params=list(Batching))
def batching(request: pytest.FixtureRequest) -> Iterator[Batching]:
    """Return how the checks of a test are sent to a shared store."""
    with use_batching(request.param) as found:
        yield found


def _open(
    request: pytest.FixtureRequest, kind: str, batching: Batching, clock: ManualClock
) -> AbstractAsyncContextManager[RedisStore]:
    cluster = kind == "cluster"
    fixture = request.getfixturevalue("cluster_url" if cluster else "valkey")
    url = fixture if cluster else fixture.url
    return open_empty_store(batching, url, now_us=clock.monotonic_us)


@pytest.fixture
async def on_server_time(valkey: EmbeddedValkey, batching: Batching) -> AsyncIterator[RedisStore]:
    """Return a store on the server's clock, with the real expiry of keys."""
    async with open_empty_store(batching, valkey.url) as store:
        yield store


@pytest.fixture
async def shared_store(
    request: pytest.FixtureRequest, clock: ManualClock, batching: Batching
) -> AsyncIterator[RedisStore]:
    """Return an empty store on a server, or in a Cluster, by the parameter."""
    async with _open(request, getattr(request, "param", "valkey"), batching, clock) as store:
        yield store


@pytest.fixture(
    params=["memory", *SHARED],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Store]:
    """Return an empty store of each kind, for each kind of batching."""
    if request.param == "memory":
        memory = MemoryStore(clock.monotonic_us)
        yield memory
        await memory.aclose()
        return
    kind, batching = request.param
    with use_batching(batching):
        async with _open(request, kind, batching, clock) as shared:
            yield shared
