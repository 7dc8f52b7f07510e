"""Commands that one script call takes on the largest sliding log. They bound its time."""

from dataclasses import dataclass

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import MAX_ENTRIES, Algorithm
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis.store import RedisStore
from support.batching import Batching, open_empty_store, use_batching
from support.clock import ManualClock
from support.stores import MINUTE_US, adjustment, charge, quota_of

QUOTA = quota_of(Algorithm.SLIDING_LOG, MAX_ENTRIES)
STEP_US = MINUTE_US // MAX_ENTRIES
MAX_COMMANDS = 60
"""A call of redis.call takes about a microsecond, and a read of 32 blocks about ten."""

ONE = charge(QUOTA)


async def commands(store: RedisStore) -> int:
    """Return the number of commands that the server has run."""
    stats = await store.client.info("commandstats")
    return sum(each["calls"] for each in stats.values())


@dataclass(frozen=True, slots=True)
class FullLog:
    """Log with entries at different times.

    Args:
        dump: Its value, as DUMP returns it.
        times: Store times of the entries.
    """

    dump: bytes
    times: list[int]


@pytest.fixture(scope="module")
async def dumped(valkey: EmbeddedValkey) -> FullLog:
    """Fill a log, once for all kinds of batching."""
    clock = ManualClock()
    times = []
    with use_batching(Batching.SINGLE) as single:
        async with open_empty_store(single, valkey.url, now_us=clock.monotonic_us) as store:
            for _ in range(MAX_ENTRIES):
                result = await store.acquire([ONE])
                assert result.spent
                times.append(result.store_now_us)
                clock.advance_us(STEP_US)
            assert await store.client.dbsize() == 1
            dump = await store.client.dump(ONE.key)
            assert dump is not None
            return FullLog(dump, times)


@pytest.fixture
async def full_log(shared_store: RedisStore, clock: ManualClock, dumped: FullLog) -> list[int]:
    """Restore the log, set the clock to its end, and return the times of its entries."""
    await shared_store.client.restore(ONE.key, 0, dumped.dump)
    clock.advance_us(MAX_ENTRIES * STEP_US)
    return dumped.times


async def test_largest_log_takes_few_commands(
    shared_store: RedisStore, clock: ManualClock, full_log: list[int]
) -> None:
    """Refunds, denials and the expiry of all entries but one take few commands each."""
    store = shared_store

    async def count(charges: list[Charge], *, spent: bool) -> int:
        before = await commands(store)
        assert (await store.acquire(charges)).spent is spent
        return await commands(store) - before

    clock.advance_us(-1)
    assert await count([ONE], spent=False) <= MAX_COMMANDS
    assert await count([charge(QUOTA, MAX_ENTRIES)], spent=False) <= MAX_COMMANDS
    for place in (0, 1, MAX_ENTRIES // 2, MAX_ENTRIES - 1):
        before = await commands(store)
        await store.adjust([adjustment(ONE, -1, full_log[place])])
        assert await commands(store) - before <= MAX_COMMANDS
    assert await count([charge(QUOTA, 4)], spent=True) <= MAX_COMMANDS
    assert await count([ONE], spent=False) <= MAX_COMMANDS
    clock.advance_us(MINUTE_US - 2 * STEP_US)
    assert await count([charge(QUOTA, MAX_ENTRIES - 5)], spent=True) <= MAX_COMMANDS
    assert await count([ONE], spent=False) <= MAX_COMMANDS
