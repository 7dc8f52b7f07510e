"""Effect of `prefetch: auto`: requests without a store call, and requests refused too early.

`python benchmarks/prefetch.py` simulates replicas that share a store, with the limiter itself on a
simulated clock. Requests arrive at random (a Poisson process), each at a random replica. Equal runs
print equal figures; no time is measured.
"""

import asyncio
import heapq
import random
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.prefetch import PrefetchSpec
from fleetlimit.core.quota import SECOND_US, rate_quota
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.prefetch.prefetcher import RECLAIM_INTERVAL_SECONDS
from fleetlimit.stores.memory import MemoryStore

RATES: Final = (1, 10, 100)
"""Requests a second of one caller."""
REPLICAS: Final = (1, 3, 8)
LIMITS: Final = ("100/minute", "1000/minute", "10000/minute", "1000000/minute")


class Clock:
    """Simulated clock, in microseconds."""

    def __init__(self) -> None:
        self.now_us = 1_000_000_000_000_000

    def monotonic_us(self) -> int:
        """Return the time."""
        return self.now_us


class CountingStore(MemoryStore):
    """Store that counts the calls of checks."""

    calls = 0

    async def acquire(self, charges, *, dry_run=False):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Acquire charges."""
        self.calls += 1
        return await super().acquire(charges, dry_run=dry_run)

    async def aclose(self) -> None:
        """Stay open for the other replicas."""


@dataclass
class Result:
    """Requests of a run."""

    sent: int = 0
    admitted: int = 0
    local: int = 0
    calls: int = 0


async def simulate(
    limit: str, prefetch: PrefetchSpec, per_second: float, replicas: int, seconds: float
) -> Result:
    """Send the requests of one caller to replicas, and return what they did."""
    arrivals = random.Random(1)  # noqa: S311 - a simulation
    clock = Clock()
    store = CountingStore(clock.monotonic_us)
    policies = PolicySet([Policy("p", (rate_quota(limit),), prefetch=prefetch)])
    fleet = [
        Limiter(store, local=MemoryStore(clock.monotonic_us), clock=clock, audit_callers=0)
        for _ in range(replicas)
    ]
    for each in fleet:
        each.require_own_loop()
        each.active_policies.replace(policies)
    result = Result()
    end_us = clock.now_us + int(seconds * SECOND_US)
    step_us = int(RECLAIM_INTERVAL_SECONDS * SECOND_US)
    events = [(clock.now_us + step_us * (n + 1) // replicas, n) for n in range(replicas)]
    events.append((clock.now_us, -1))
    heapq.heapify(events)
    while (event := heapq.heappop(events))[0] < end_us:
        clock.now_us, replica = event
        if replica >= 0:
            await fleet[replica]._gateway._prefetcher.reclaim()  # noqa: SLF001 - its periodic task
            heapq.heappush(events, (clock.now_us + step_us, replica))
            continue
        before = store.calls
        decision = await arrivals.choice(fleet).check("p", principal="ann")
        result.sent += 1
        if decision.allowed:
            result.admitted += 1
            result.local += store.calls == before
        gap_us = round(arrivals.expovariate(per_second) * SECOND_US)
        heapq.heappush(events, (clock.now_us + gap_us, -1))
    result.calls = store.calls
    return result


def main(
    prefetch: Annotated[str, typer.Option(help="auto, or a fraction.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Simulated seconds of a run.")] = 120,
) -> None:
    """Print the effect of a prefetch for callers below and near their limit."""
    spec: PrefetchSpec = "auto" if prefetch == "auto" else float(prefetch)
    asyncio.run(_print(spec, seconds))


async def _print(spec: PrefetchSpec, seconds: float) -> None:
    table = Table(
        title="callers within their limit: share of admitted requests without a store call"
    )
    for name in ("limit", "requests/s", *(f"{n} replicas" for n in REPLICAS)):
        table.add_column(name)
    for limit in LIMITS:
        for rate in RATES:
            cells = []
            for replicas in REPLICAS:
                found = await simulate(limit, spec, rate, replicas, seconds)
                cells.append(f"{found.local / max(1, found.admitted):.2f}")
            table.add_row(limit, str(rate), *cells)
    Console(width=120).print(table)
    table = Table(
        title="callers near their limit: admitted, of what is admitted without a prefetch"
    )
    for name in ("limit", "load", "2 replicas", "4 replicas", "8 replicas"):
        table.add_column(name)
    for limit in LIMITS[:3]:
        per_second = int(limit.partition("/")[0]) / 60
        for load in (0.8, 1.0, 1.2, 2.0):
            cells = []
            for replicas in (2, 4, 8):
                exact = await simulate(limit, "off", load * per_second, replicas, 5 * seconds)
                found = await simulate(limit, spec, load * per_second, replicas, 5 * seconds)
                cells.append(
                    f"{found.admitted / exact.admitted:.3f} ({found.local / found.admitted:.2f})"
                )
            table.add_row(limit, f"{load:g}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
