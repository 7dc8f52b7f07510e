"""What a check has spent, until its owner says what it really cost."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Self
from weakref import WeakSet

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import ALLOWED, Decision
from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import CostError
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Sleep

Adjust = Callable[[Sequence[Adjustment]], Awaitable[object]]


class Reservation:
    """Units spent for a request, and leases held for it.

    Used as an async context manager it gives the leases back at the end; the cost stays spent
    unless `commit` or `refund` said otherwise.

    Args:
        decision: What was decided.
        plan: What was asked.
        acquired_at_us: When it was spent, on the clock of the store that it was spent from.
        adjust: How to correct it; it never raises.
    """

    __slots__ = (
        *("_uncorrected", "_policy", "_plan", "_adjust", "_acquired_at_us", "decision", "leases"),
        "__weakref__",  # of those that hold leases, who keeps them alive
    )

    def __init__(self, decision: Decision, plan: Plan, acquired_at_us: int, adjust: Adjust) -> None:
        self.decision = decision
        self.leases: Sequence[Charge] = ()
        self._plan = plan
        self._acquired_at_us = acquired_at_us
        self._adjust = adjust
        # The policy that this is a part of; empty for all of the plan's.
        self._policy = ""
        # Found when somebody corrects it, which few requests do.
        self._uncorrected: dict[str, Sequence[Charge]] | None = None
        if plan.has_leases:
            held = self._spent().values()
            self.leases = [each for charges in held for each in charges if each.lease]

    def _spent(self) -> dict[str, Sequence[Charge]]:
        """Return the charges that are spent and not corrected yet, by policy."""
        if self._uncorrected is None:
            self._uncorrected = _spent_charges(self._plan, self.decision)
        return self._uncorrected

    def for_policy(self, policy: str) -> Self:
        """Return the part of one policy, to be corrected apart; leases stay with the whole."""
        parts = self._plan.policy_plans
        if not self.leases and len(parts) == 1 and parts[0].policy.name == policy:
            return self
        # The copy shares what is open, so that the whole and its parts give nothing back twice.
        self._spent()
        part = copy.copy(self)
        part._policy = policy  # noqa: SLF001 - of our own kind
        part.leases = ()
        return part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def commit(self, actual: int) -> None:
        """Say what the request really cost; the difference is given back, or spent as well.

        What is spent beyond the reservation may exceed the limit by as much; it then delays those
        who come after. Only the first of `commit` and `refund` counts, under each policy.

        Args:
            actual: The real cost, at least 0.

        Raises:
            CostError: The cost is negative.
        """
        if actual < 0:
            raise CostError(f"a cost cannot be negative: {actual}")
        still = self._spent()
        policies = (self._policy,) if self._policy else tuple(still)
        spent = [each for policy in policies for each in still.pop(policy, ())]
        await self._apply(
            [
                each.adjustment(change, self._acquired_at_us)
                for each in spent
                if not each.lease and (change := actual * each.quota.cost - each.units)
            ]
        )

    async def refund(self) -> None:
        """Give everything back."""
        await self.commit(0)

    async def release(self) -> None:
        """Give back the leases, because the work is done; the cost stays spent."""
        await self._apply([])

    async def _apply(self, corrections: list[Adjustment]) -> None:
        released, self.leases = self.leases, ()
        corrections += [each.adjustment(-each.units, self._acquired_at_us) for each in released]
        if corrections:
            await self._adjust(corrections)

    def renewals(self) -> list[Adjustment]:
        """Return what keeps the leases alive."""
        return [each.adjustment(0, self._acquired_at_us) for each in self.leases]


def _spent_charges(plan: Plan, decision: Decision) -> dict[str, Sequence[Charge]]:
    """Return the charges that were spent, by policy: those of each policy that had room."""
    if not decision.spent:
        return {}
    # The results are those of the parts, in their order.
    pairs = zip(plan.policy_plans, decision.results, strict=False)
    return {
        part.policy.name: plan.charges_of(part)
        for part, result in pairs
        if result.outcome is ALLOWED
    }


class LeaseRenewer:
    """Renews what is held; works only while something is.

    Args:
        adjust: How leases are renewed.
        sleep: How to wait between renewals.
    """

    def __init__(self, adjust: Adjust, *, sleep: Sleep = asyncio.sleep) -> None:
        self._adjust = adjust
        self._sleep = sleep
        self._tracked: dict[int, WeakSet[Reservation]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def track(self, reservation: Reservation) -> Reservation:
        """Keep the leases of a reservation, if it has any, until they are given back."""
        if not reservation.leases:
            return reservation
        # Each length of lease has a task of its own: a short one cannot wait for a long one.
        life_us = min(each.quota.period_us for each in reservation.leases)
        # What its owner has dropped can never be given back: it is not renewed, and so it ends.
        self._tracked.setdefault(life_us, WeakSet()).add(reservation)
        if life_us not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._renew(life_us))
            self._tasks[life_us] = task
        return reservation

    async def _renew(self, life_us: int) -> None:
        held = self._tracked[life_us]
        while held:
            # Three renewals fall into the life of a lease: two may be lost.
            await self._sleep(life_us / 3 / SECOND_US)
            held.difference_update([each for each in held if not each.leases])
            await self._renew_all(held)
        del self._tracked[life_us], self._tasks[life_us]

    async def _renew_all(self, held: Iterable[Reservation]) -> None:
        renewals = [(owner, each) for owner in held for each in owner.renewals()]
        if renewals:
            await self._adjust([each for _, each in renewals])
        # A lease given back meanwhile may have come back with its renewal.
        back = [replace(each, delta=-each.units) for owner, each in renewals if not owner.leases]
        if back:
            await self._adjust(back)

    async def aclose(self) -> None:
        """Stop renewing."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        self._tasks.clear()
