"""Checks of one caller under policies with prefetch."""

import asyncio
from collections.abc import Sequence

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import Decision
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.memory import MemoryStore
from support.limiter import Bench, FakeStore, fixed_window, rate_policy, remaining

BUCKET = rate_policy("p", "100/minute", prefetch=0.1)
"""A unit is refilled in 0.6 s. A prefetch has at most 10 units, and lives for at most 6 s."""
WINDOW = rate_policy("w", fixed_window(100), prefetch=0.1)
ANN = Subject(principal=Principal("ann"))


class KeptStore(MemoryStore):
    """Store that stays open for the other replica."""

    async def aclose(self) -> None:
        """Stay open."""


class RecordingStore(FakeStore):
    """Fake store that keeps the charges of each call."""

    charges: list[Sequence[Charge]]

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Keep the charges, and decide in memory."""
        if not dry_run:
            self.charges.append(charges)
        return await super().acquire(charges, dry_run=dry_run)


class AheadBench(Bench):
    """Limiter whose store keeps the charges of each call."""

    store: RecordingStore

    def make_store(self) -> RecordingStore:
        """Return the store of the limiter."""
        store = RecordingStore(self.clock)
        store.charges = []
        return store

    def acquired(self) -> list[tuple[int, int]]:
        """Return the units of each charge, and the microseconds that it was spent ahead."""
        return [(each.units, each.ahead_us) for charges in self.store.charges for each in charges]

    def prefetched(self) -> bool:
        """Return whether the prefetcher has state of a bucket."""
        return bool(self.limiter._gateway._prefetcher._buckets)


def remaining_of(decision: Decision) -> int:
    """Return the remaining units of a decision."""
    return remaining(decision.results[0].limits[0])


async def check_times(
    bench: Bench, times: int, *, cost: int = 1, policy: str = "p"
) -> list[Decision]:
    """Check several times, one after the other."""
    return [await bench.limiter.check(policy, principal="ann", cost=cost) for _ in range(times)]


def start_checks(bench: Bench, *costs: int) -> list["asyncio.Task[Decision]"]:
    """Start several checks at the same time."""
    loop = asyncio.get_running_loop()
    return [
        loop.create_task(bench.limiter.check("p", principal="ann", cost=cost)) for cost in costs
    ]
