"""A limiter belongs to one event loop: calls from another one are errors, and hang nowhere."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from fleetlimit import Fleetlimit, Policy, PolicySet
from fleetlimit.bootstrap.explain import explain, parse_request
from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.web.route_info import UNMATCHED
from support.cluster import Cluster, cluster
from support.eventually import PATIENCE_SECONDS
from support.hostile_store import encode, hostile_store
from support.stores import quota_of, redis_store

POLICIES = PolicySet(
    (
        Policy("plain", "5/minute"),
        Policy("prefetched", "1000/minute", prefetch=0.1),
    )
)


@pytest.fixture(scope="module", params=["memory", "standalone", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of each kind of store."""
    if request.param == "memory":
        yield "memory://"
    elif request.param == "standalone":
        with EmbeddedValkey() as server:
            yield server.url
    else:
        with cluster() as found:
            yield found.url


Verb = Callable[[Fleetlimit, Reservation], Awaitable[Any]]


async def _explain(fleetlimit: Fleetlimit, _held: Reservation) -> Any:
    found = await explain(
        fleetlimit.http_limiter,
        lambda _: UNMATCHED,
        parse_request("GET", "/docs"),
    )
    return await fleetlimit.limiter.peek("plain", principal="alice") or found


VERBS: dict[str, Verb] = {
    "check": lambda fleetlimit, _: fleetlimit.limiter.check("plain", principal="alice"),
    "check prefetched": lambda fleetlimit, _: fleetlimit.limiter.check(
        "prefetched", principal="alice"
    ),
    "reserve": lambda fleetlimit, _: fleetlimit.limiter.reserve("plain", principal="alice"),
    "commit": lambda _, held: held.commit(1),
    "refund": lambda _, held: held.refund(),
    "peek": lambda fleetlimit, _: fleetlimit.limiter.peek("plain", principal="alice"),
    "reset": lambda fleetlimit, _: fleetlimit.limiter.reset("plain", principal="alice"),
    "explain": _explain,
    "start": lambda fleetlimit, _: fleetlimit.limiter.start(),
    "aclose": lambda fleetlimit, _: fleetlimit.aclose(),
}


async def left(fleetlimit: Fleetlimit, policy: str) -> int:
    """Return the units that a caller has left under a policy."""
    decision = await fleetlimit.limiter.peek(policy, principal="alice")
    status = decision.results[0].statuses[0]
    assert status is not None
    return status.remaining


def in_another_loop(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return the result of a call in an event loop of its own, or raise its error."""

    async def run() -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await call()

    return asyncio.run(run())


@pytest.mark.parametrize("verb", VERBS)
async def test_call_from_another_event_loop_is_an_error(url: str, verb: str) -> None:
    """Every verb raises the same error, and loses nothing: its own loop can call it afterwards."""
    async with Fleetlimit(store=url, policies=POLICIES) as fleetlimit:
        limiter = fleetlimit.limiter
        await limiter.reset("plain", "prefetched", principal="alice")
        held = await limiter.reserve("plain", principal="alice", cost=3)
        # Units of the prefetched batch are left in this replica.
        await limiter.check("prefetched", principal="alice")
        with pytest.raises(ConfigError, match="belongs to the event loop that started it"):
            await asyncio.to_thread(in_another_loop, lambda: VERBS[verb](fleetlimit, held))
        await held.refund()
        assert await left(fleetlimit, "plain") == 5


async def test_lease_is_released_after_a_failed_release(url: str) -> None:
    """A release from another event loop leaves the lease for the right one."""
    policy = Policy("one", quota_of(Algorithm.CONCURRENCY, 1))
    async with Fleetlimit(store=url, policies=PolicySet((policy,))) as fleetlimit:
        limiter = fleetlimit.limiter
        held = await limiter.reserve("one", principal="alice")
        with pytest.raises(ConfigError, match="belongs to the event loop"):
            await asyncio.to_thread(in_another_loop, held.release)
        await held.release()
        assert await left(fleetlimit, "one") == 1


@pytest.mark.parametrize("verb", ["delete", "exchange_reports", "open"])
async def test_store_belongs_to_one_event_loop(verb: str) -> None:
    """Calls over the pool of the driver, such as those of the audit, are errors, too."""
    with EmbeddedValkey() as server:
        store = redis_store(server.url)
        await store.open()
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "delete": lambda: store.delete(["key"]),
            "exchange_reports": lambda: store.exchange_reports("replica", "{}", "", 1_000_000),
            "open": store.open,
        }
        with pytest.raises(ConfigError, match="belongs to the event loop"):
            await asyncio.to_thread(in_another_loop, calls[verb])
        await store.aclose()


NEXT_LOOP = """
import asyncio, sys
from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import rate_quota
from fleetlimit.stores.redis.store import RedisStore

async def spend_and_delete():
    await store.open()
    await store.acquire([Charge("fl2:{a}:b", rate_quota("5/minute"), 1, "", 0)])
    assert await store.delete(["fl2:{a}:b"]) == 1
    assert await store.key_secrets() == set()

async def close():
    await store.aclose()

store = RedisStore(sys.argv[1], KeyScheme())
for work in (spend_and_delete, spend_and_delete, close):
    asyncio.run(work())
"""


@pytest.mark.parametrize("kind", [EmbeddedValkey, cluster])
def test_pool_is_usable_in_the_next_event_loop(
    kind: Callable[[], AbstractContextManager[EmbeddedValkey | Cluster]],
) -> None:
    """The connections of an event loop that has ended are not used in the next one."""
    with kind() as server:
        # In a process of its own, because nothing closes the connections of the first event loop.
        subprocess.run([sys.executable, "-c", NEXT_LOOP, server.url], check=True)


SERVER_THAT_LEFT = """
import asyncio, sys
from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import rate_quota
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.store import RedisStore

async def spend():
    await store.open()
    for number in range(8):
        await store.acquire([Charge(f"fl2:{number}", rate_quota("5/minute"), 1, "", 0)])

store = RedisStore(sys.argv[1], KeyScheme(), timeouts=Timeouts(connect=5, operation=5))
asyncio.run(spend())
print("spent", flush=True)
sys.stdin.readline()
asyncio.run(spend())
"""


async def test_server_that_left_the_cluster_since_the_last_event_loop_is_dropped() -> None:
    """Its connection belongs to the event loop that has ended, and cannot be closed."""
    async with asyncio.timeout(PATIENCE_SECONDS), hostile_store() as stays, hostile_store() as left:
        both = [[0, 8_191, stays.address], [8_192, 16_383, left.address]]
        stays.topology = left.topology = encode(both)
        client = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-c",
                SERVER_THAT_LEFT,
                stays.url.replace("redis:", "redis+cluster:"),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert client.stdout is not None
        assert await client.stdout.readline() == b"spent\n"
        stays.topology = left.topology = encode([[0, 16_383, stays.address]])
        await client.communicate(b"\n")
        assert client.returncode == 0


async def test_call_from_another_thread_without_a_loop_runs_in_the_right_one(url: str) -> None:
    """`run_coroutine_threadsafe`, which the error names, works."""
    async with Fleetlimit(store=url, policies=POLICIES) as fleetlimit:
        loop = asyncio.get_running_loop()
        await fleetlimit.limiter.reset("plain", principal="bob")

        def check() -> bool:
            assert threading.current_thread() is not threading.main_thread()
            checking = fleetlimit.limiter.check("plain", principal="bob")
            return asyncio.run_coroutine_threadsafe(checking, loop).result(PATIENCE_SECONDS).allowed

        assert await asyncio.to_thread(check)
