"""Held times: how long requests hold the units of a concurrency limit, and the waits that follow.

A store reports when leases expire if their replicas die. A live replica releases a unit when its
request ends, usually much earlier. This module estimates that time from the units released before.

The estimate has two parts:

1. The mean time that a unit is held: an exponentially weighted mean with the factor 1/8, as TCP
   smooths its round-trip time (RFC 6298, section 2).
2. The time until `k` of `n` held units are released. For exponentially distributed times it is
   `mean * (1/n + 1/(n-1) + ... + 1/(n-k+1))` (Renyi, On the theory of order statistics, 1953). For
   `k = 1` it is `mean / n`, the time between two releases of a busy limit by Little's law (1961).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import BucketStatus
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Clock

MAX_POLICIES: Final = 1_024
"""Policies with a mean; the oldest one is dropped first."""
_WEIGHT: Final = 1 / 8
_EULER_GAMMA: Final = 0.577_215_664_9


class HeldTimes:
    """Mean times that requests of this replica hold units, by policy.

    Args:
        clock: Clock of this process.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mean_us: BoundedCache[str, float] = BoundedCache(MAX_POLICIES)

    def __len__(self) -> int:
        return len(self._mean_us)

    def start(self, policies: Iterable[str]) -> Callable[[], None]:
        """Return a function that records the time from now until it is called.

        Args:
            policies: Names of the policies whose units are held from now on.
        """
        return partial(self._record, policies, self._clock.monotonic_us())

    def _record(self, policies: Iterable[str], mono_acquired_at_us: int) -> None:
        held_us = float(self._clock.monotonic_us() - mono_acquired_at_us)
        for policy in policies:
            mean_us = self._mean_us.get(policy)
            if mean_us is not None:
                mean_us += _WEIGHT * (held_us - mean_us)
            self._mean_us.put(policy, held_us if mean_us is None else mean_us)

    def estimate(self, plan: Plan, statuses: Sequence[BucketStatus]) -> tuple[BucketStatus, ...]:
        """Return statuses whose waits for held units are estimates, never above the store's.

        Before the first release, the mean is the time since the oldest unit was acquired or
        renewed, which is at most a third of the lease while its replica lives.

        Args:
            plan: Charges of one check.
            statuses: Status of each charge from its store.
        """
        estimated = list(statuses)
        for each in plan.policy_plans:
            for index in range(each.first, each.last):
                if plan.charges[index].lease:
                    estimated[index] = self._estimated(
                        each.policy.name, plan.charges[index], statuses[index]
                    )
        return tuple(estimated)

    def _estimated(self, policy: str, charge: Charge, status: BucketStatus) -> BucketStatus:
        quota, remaining = charge.quota, status.remaining
        held = quota.limit - remaining
        if held <= 0:
            return status
        mean_us = self._mean_us.get(policy)
        if mean_us is None:
            mean_us = float(quota.period_us - status.next_unit_after_us)

        def wait_us(units: int, most_us: int) -> int:
            share = _harmonic(held) - _harmonic(held - min(units, held))
            return min(most_us, max(1, math.ceil(mean_us * share)))

        missing = charge.units - remaining
        return replace(
            status,
            retry_after_us=0 if status.allowed else wait_us(missing, status.retry_after_us),
            next_unit_after_us=wait_us(1, status.next_unit_after_us),
            reset_after_us=wait_us(held, status.reset_after_us),
        )


def _harmonic(number: int) -> float:
    """Return 1 + 1/2 + ... + 1/number, within 1 %, in constant time (Euler, 1740)."""
    if not number:
        return 0.0
    return math.log(number) + _EULER_GAMMA + 1 / (2 * number) - 1 / (12 * number**2)
