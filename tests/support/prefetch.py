"""Checks of one caller under policies with prefetch."""

import asyncio

from fleetlimit.core.decision import Decision
from fleetlimit.core.subject import Principal, Subject
from support.limiter import Bench, fixed_window, rate_policy, remaining

BUCKET = rate_policy("p", "100/minute", prefetch=0.1)
"""The bucket holds 90 units, and a prefetch of 10 lives for 6 s."""
WINDOW = rate_policy("w", fixed_window(100), prefetch=0.1)
ANN = Subject(principal=Principal("ann"))


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
