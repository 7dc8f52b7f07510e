"""Checks that wait for units of a shared store, on its real clock, from several replicas."""

import asyncio
import secrets
import time

from fleetlimit import Fleetlimit, Policy, PolicySet, Settings
from fleetlimit.core.quota import Algorithm, concurrency_quota, rate_quota
from fleetlimit.stores.embedded import EmbeddedValkey

RATE = rate_quota("100/second", burst=2)
POLICIES = PolicySet(
    [
        Policy("provider", RATE, key="global"),
        Policy("slots", concurrency_quota(2, lease=30), key="global"),
    ]
)
WAITERS = 20


def replica(server: EmbeddedValkey, prefix: str) -> Fleetlimit:
    """Return a replica with the store, the timeouts of which no busy machine reaches."""
    settings = Settings(
        store=server.url, key_prefix=prefix, store_timeout=30, breaker_failures=1_000
    )
    return Fleetlimit(policies=POLICIES, settings=settings)


async def test_waiters_of_two_replicas_share_the_rate_in_order(valkey: EmbeddedValkey) -> None:
    """All waiters are admitted, in the order of each replica, and not faster than the rate."""
    prefix = f"test-{secrets.token_hex(4)}"
    order: list[tuple[int, int]] = []

    async def wait(limits: Fleetlimit, name: tuple[int, int]) -> None:
        await limits.acquire("provider", timeout=None)
        order.append(name)

    async with replica(valkey, prefix) as one, replica(valkey, prefix) as two:
        await asyncio.gather(*(each.acquire("provider", timeout=None) for each in (one, two)))
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(WAITERS):
                for index, each in enumerate((one, two)):
                    group.create_task(wait(each, (index, number)))
        elapsed_s = time.monotonic() - started
    for index in (0, 1):
        assert [number for found, number in order if found == index] == list(range(WAITERS))
    # The bucket may have refilled its burst before.
    assert elapsed_s >= (2 * WAITERS - RATE.burst - 1) / 100


async def test_waiters_hold_no_more_slots_than_there_are(valkey: EmbeddedValkey) -> None:
    """A concurrency limit holds across replicas while checks wait for its units."""
    prefix = f"test-{secrets.token_hex(4)}"
    held: list[int] = [0, 0]

    async def work(limits: Fleetlimit) -> None:
        async with limits.acquire("slots", timeout=None):
            held[0] += 1
            held[1] = max(held)
            await asyncio.sleep(0)
            held[0] -= 1

    async with replica(valkey, prefix) as one, replica(valkey, prefix) as two:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                for each in (one, two):
                    group.create_task(work(each))
        assert held == [0, held[1]]
        assert 1 <= held[1] <= 2
        assert (await one.peek("slots", cost=2)).allowed


async def test_cancelled_waiters_lose_no_units(valkey: EmbeddedValkey) -> None:
    """Whenever a waiter is cancelled, its units are spent once or not at all."""
    prefix = f"test-{secrets.token_hex(4)}"
    # A log returns units exactly; a token bucket keeps what has refilled meanwhile.
    quota = rate_quota("40/hour", algorithm=Algorithm.SLIDING_LOG)
    policy = Policy("few", quota, key="global")
    async with replica(valkey, prefix) as limits:
        admitted = 0
        for pauses in range(30):
            task = asyncio.ensure_future(_acquire(limits, policy))
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            admitted += not task.cancelled()
        # The refunds run in the background, and closing waits for them.
    async with replica(valkey, prefix) as limits:
        decision = await limits.peek(policy, cost=0)
        status = decision.results[0].statuses[0]
        assert status is not None
        assert status.remaining == 40 - admitted


async def _acquire(limits: Fleetlimit, policy: Policy) -> None:
    await limits.acquire(policy)
