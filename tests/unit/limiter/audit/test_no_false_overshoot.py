"""Property of the audit: over a store that keeps its limits there is no overshoot."""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US, Algorithm, Quota
from fleetlimit.errors import StoreUnavailable
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_replies import AcquireResult, AuditReply
from fleetlimit.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import ManualClock
from support.limiter import rate_policy

Answer = TypeVar("Answer")
CALLERS = [f"caller{number}" for number in range(4)]
KEEPERS, MORTALS = ("b", "d"), ("a", "c", "e")
"""Replicas that give back and live on, and replicas that may die with what they did not state."""
AUDITED = [each for each in Algorithm if each is not Algorithm.CONCURRENCY]


def quotas(algorithm: Algorithm) -> st.SearchStrategy[Quota]:
    def build(limit: int, burst: int, period_ms: int) -> Quota:
        burst = burst if algorithm is Algorithm.TOKEN_BUCKET else limit
        return Quota(algorithm, limit, period_ms * MILLISECOND_US, burst)

    periods = st.sampled_from([900, 5_000, 7_000, 20_000, 60_000])
    return st.builds(build, st.integers(1, 9), st.integers(1, 9), periods)


WAITS_US = st.sampled_from([0, 1_000, 500_000, 1_900_000, 2_000_000, 4_000_000, 7_000_000])
NUMBER, CALLER, UNITS = st.integers(0, 9), st.sampled_from(CALLERS), st.integers(0, 9)
ASK = st.tuples(st.just("ask"), NUMBER, CALLER, UNITS)
GIVE = st.tuples(st.just("give"), NUMBER, st.just(""), UNITS)
WAIT = st.tuples(st.just("wait"), WAITS_US, st.just(""), st.just(0))
RESET = st.tuples(st.just("reset"), st.integers(0, 1), CALLER, st.just(0))
CUT = st.tuples(st.just("cut"), st.just(0), st.just(""), st.just(0))
LONG = st.tuples(
    st.just("wait"), st.sampled_from([20_000_000, 60_000_000]), st.just(""), st.just(0)
)
TURN = st.tuples(st.just("turn"), st.sampled_from(MORTALS), st.just(""), st.just(0))
STEP = st.one_of(ASK, ASK, ASK, ASK, GIVE, GIVE, WAIT, WAIT, WAIT, CUT, LONG, RESET, TURN)
Step = tuple[str, int | str, str, int]


class UnreliableStore(MemoryStore):
    """A store that can fail after it has executed a call."""

    unavailable = False

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Decide, and lose the reply during an outage."""
        return self._answer(await super().acquire(charges, dry_run=dry_run))

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Correct, and lose the reply during an outage."""
        return self._answer(await super().adjust(adjustments))

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete, and lose the reply during an outage."""
        return self._answer(await super().delete(keys))

    async def exchange_reports(
        self, replica: str, report: str, bounds: str, ttl_us: int, *, last: bool = False
    ) -> AuditReply:
        """Fail during an outage."""
        self._answer(None)
        return await super().exchange_reports(replica, report, bounds, ttl_us, last=last)

    def _answer(self, answer: Answer) -> Answer:
        if self.unavailable:
            raise StoreUnavailable("no reply", kind="timeout")
        return answer


async def run(quota: Quota, steps: list[Step], audit_callers: int) -> Fleet:
    clock = ManualClock()
    store = UnreliableStore(clock.monotonic_us)
    fleet = Fleet(
        clock,
        lambda: store,
        rate_policy("p", quota),
        replicas=KEEPERS + MORTALS,
        audit_callers=audit_callers,
    )
    held: list[Reservation] = []
    numbers = count()
    for verb, which, caller, units in steps:
        if verb == "wait":
            # Reports are sent as time passes.
            await fleet.advance(int(which) / SECOND_US)
        elif verb == "cut":
            store.unavailable = not store.unavailable
        elif verb == "turn":
            # The replica dies, or another one replaces it.
            if fleet.members.pop(str(which), None) is None:
                renamed = f"{which}{next(numbers)}"
                fleet.join(str(which)).audit._get_replica = partial(str, renamed)
        elif verb == "reset":
            with contextlib.suppress(StoreUnavailable):
                await fleet[KEEPERS[int(which)]].reset("p", principal=caller)
        elif verb == "give" and held:
            await held.pop(int(which) % len(held)).commit(units)
        elif verb == "ask":
            name = sorted(fleet.members)[int(which) % len(fleet.members)]
            cost = min(units, quota.burst)
            reservation = await fleet[name].reserve("p", principal=caller, cost=cost)
            if reservation.decision.allowed and name in KEEPERS:
                held.append(reservation)
    store.unavailable = False
    await fleet.advance_until_compared()
    await fleet.advance_until_compared()
    return fleet


@pytest.mark.parametrize("algorithm", AUDITED)
@given(data=st.data(), keys=st.sampled_from([1, 2, 32]))
@settings(max_examples=25)
def test_audit_of_a_kept_limit_finds_no_overshoot(
    algorithm: Algorithm, keys: int, data: st.DataObject
) -> None:
    """Under any traffic, refunds, resets, deaths and changes of the comparing replica."""
    quota = data.draw(quotas(algorithm))
    fleet = asyncio.run(run(quota, data.draw(st.lists(STEP, min_size=30, max_size=120)), keys))
    assert fleet.overshoots() == []
    assert fleet.overshoot("p") == 0
