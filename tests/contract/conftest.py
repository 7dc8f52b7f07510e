"""Stores that must behave alike, on a manual clock, for each kind of batching."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from fleetlimit.limiter.ports import Store
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.store import RedisStore
from support.batching import Batching, open_empty_store, use_batching
from support.clock import EPOCH_US, ManualClock

IN_CLUSTER = (Batching.COALESCED, Batching.SINGLE)
SHARED = [("valkey", kind) for kind in Batching] + [("cluster", kind) for kind in IN_CLUSTER]


Opened = Callable[[str, Batching, ManualClock | None], Awaitable[RedisStore]]
"""Returns an empty store by its URL, its batching and its clock; None for the server's."""


@pytest.fixture(scope="module")
def clock_of_module() -> ManualClock:
    """Return the clock of the stores of a module."""
    return ManualClock()


@pytest.fixture
def clock(clock_of_module: ManualClock) -> ManualClock:
    """Return the clock that all stores of a test run on, at its start."""
    clock_of_module.advance_us(EPOCH_US - clock_of_module.monotonic_us())
    return clock_of_module


@pytest.fixture(scope="module")
async def opened() -> AsyncIterator[Opened]:
    """Return a function that opens each store once, and deletes all of its keys at each call."""
    stores: dict[tuple[str, Batching, ManualClock | None], RedisStore] = {}
    async with AsyncExitStack() as stack:

        async def find(url: str, batching: Batching, clock: ManualClock | None) -> RedisStore:
            key = url, batching, clock
            if key in stores:
                await stores[key].client.flushall()
                if (bucket_clock := stores[key]._test_clock) is not None:
                    # A reset of an earlier test at this time of the clock is none of this test.
                    bucket_clock._last_reset_at_us = 0
            else:
                now_us = clock.monotonic_us if clock is not None else None
                opening = open_empty_store(batching, url, now_us=now_us)
                stores[key] = await stack.enter_async_context(opening)
            return stores[key]

        yield find


@pytest.fixture(params=list(Batching))
def batching(request: pytest.FixtureRequest) -> Iterator[Batching]:
    """Return how the checks of a test are sent to a shared store."""
    with use_batching(request.param) as found:
        yield found


def _url(request: pytest.FixtureRequest, kind: str) -> str:
    url: str = (
        request.getfixturevalue("cluster_url")
        if kind == "cluster"
        else request.getfixturevalue("valkey").url
    )
    return url


@pytest.fixture
async def on_server_time(valkey: EmbeddedValkey, batching: Batching, opened: Opened) -> RedisStore:
    """Return a store on the server's clock, with the real expiry of keys."""
    return await opened(valkey.url, batching, None)


@pytest.fixture
async def shared_store(
    request: pytest.FixtureRequest, clock: ManualClock, batching: Batching, opened: Opened
) -> RedisStore:
    """Return an empty store on a server, or in a Cluster, by the parameter."""
    return await opened(_url(request, getattr(request, "param", "valkey")), batching, clock)


@pytest.fixture(
    params=["memory", *SHARED],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
async def store(
    request: pytest.FixtureRequest, clock: ManualClock, opened: Opened
) -> AsyncIterator[Store]:
    """Return an empty store of each kind, for each kind of batching."""
    if request.param == "memory":
        memory = MemoryStore(clock.monotonic_us)
        yield memory
        await memory.aclose()
        return
    kind, batching = request.param
    with use_batching(batching):
        yield await opened(_url(request, kind), batching, clock)
