"""Reservation: what a check has spent, to be committed, refunded or released later."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Self
from weakref import WeakSet

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import ALLOWED, Decision
from fleetlimit.core.quota import SECOND_US, check_cost
from fleetlimit.limiter.periodic import DONE, PeriodicTask
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Sleep

Adjust = Callable[[Sequence[Adjustment]], Awaitable[object]]
Renew = Callable[[Sequence[Charge]], Awaitable[object]]


class Reservation:
    """Units spent for a request, and leases held for it.

    As an async context manager it releases the leases at the end. The cost stays spent unless
    `commit` or `refund` corrects it.

    Args:
        decision: Decision on the request.
        plan: Plan that was decided.
        store_acquired_at_us: Time at which the units were spent, on the clock of their store.
        adjust: Corrects charges; never raises.
    """

    __slots__ = (
        "__weakref__",  # `LeaseRenewer` holds reservations weakly
        "_adjust",
        "_plan",
        "_policy",
        "_store_acquired_at_us",
        "_uncorrected",
        "decision",
        "leases",
    )

    def __init__(
        self, decision: Decision, plan: Plan, store_acquired_at_us: int, adjust: Adjust
    ) -> None:
        self.decision = decision
        self.leases: Sequence[Charge] = ()
        self._plan = plan
        self._store_acquired_at_us = store_acquired_at_us
        self._adjust = adjust
        # Name of the policy that this part belongs to; empty for the whole reservation.
        self._policy = ""
        # Spent charges by policy, computed when needed: few requests correct their cost.
        self._uncorrected: dict[str, Sequence[Charge]] | None = None
        if plan.has_leases:
            spent = self._spent().values()
            self.leases = [each for charges in spent for each in charges if each.lease]

    def _spent(self) -> dict[str, Sequence[Charge]]:
        """Return the charges that are spent and not corrected yet, by policy."""
        if self._uncorrected is None:
            self._uncorrected = _spent_charges(self._plan, self.decision)
        return self._uncorrected

    def for_policy(self, policy: str) -> Self:
        """Return the part of one policy, for a separate correction; leases stay with the whole."""
        plans = self._plan.policy_plans
        if not self.leases and len(plans) == 1 and plans[0].policy.name == policy:
            return self
        # The copy shares the uncorrected charges, so that nothing is refunded twice.
        self._spent()
        part = copy.copy(self)
        part._policy = policy  # noqa: SLF001 - an object of this class
        part.leases = ()
        return part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def commit(self, actual: int) -> None:
        """Correct the cost to the actual one; the difference is refunded or spent.

        Spending more than was reserved may exceed the limit by the difference, which delays later
        requests. Only the first `commit` or `refund` has an effect, for each policy.

        Args:
            actual: Actual cost of the request, at least 0.

        Raises:
            CostError: The cost is negative, or no whole number.
        """
        actual = check_cost(actual)
        uncorrected = self._spent()
        policies = (self._policy,) if self._policy else tuple(uncorrected)
        charges = [each for policy in policies for each in uncorrected.pop(policy, ())]
        await self._apply(
            [
                each.adjustment(delta, self._store_acquired_at_us)
                for each in charges
                if not each.lease and (delta := actual * each.quota.cost - each.units)
            ]
        )

    async def refund(self) -> None:
        """Refund the whole cost, and release the leases."""
        await self.commit(0)

    async def release(self) -> None:
        """Release the leases, because the request has ended; the cost stays spent."""
        await self._apply([])

    async def _apply(self, adjustments: list[Adjustment]) -> None:
        leases, self.leases = self.leases, ()
        adjustments += self.releases_of(leases)
        if adjustments:
            await self._adjust(adjustments)

    def releases_of(self, leases: Sequence[Charge]) -> list[Adjustment]:
        """Return the adjustments that release leases of this reservation."""
        return [each.adjustment(-each.units, self._store_acquired_at_us) for each in leases]


def _spent_charges(plan: Plan, decision: Decision) -> dict[str, Sequence[Charge]]:
    """Return the charges of the policies under which the request was allowed, by policy."""
    if not decision.spent:
        return {}
    # The results are in the order of the policies; a fallback may add results at the end.
    pairs = zip(plan.policy_plans, decision.results, strict=False)
    return {
        each.policy.name: plan.charges_of(each)
        for each, result in pairs
        if result.outcome is ALLOWED
    }


class LeaseRenewer:
    """Renews the leases of open reservations. No task runs while there are none.

    Args:
        renew: Renews leases; never raises.
        adjust: Releases a lease that was renewed after its release; never raises.
        sleep: Pause between renewals.
    """

    def __init__(self, renew: Renew, adjust: Adjust, *, sleep: Sleep = asyncio.sleep) -> None:
        self._renew = renew
        self._adjust = adjust
        self._sleep = sleep
        self._tracked: dict[int, WeakSet[Reservation]] = {}
        self._tasks: dict[int, PeriodicTask] = {}

    def track(self, reservation: Reservation) -> None:
        """Renew the leases of a reservation until they are released."""
        if not reservation.leases:
            return
        # One task for each lifetime: a short lease cannot wait for the renewal of a long one.
        lifetime_us = min(each.quota.period_us for each in reservation.leases)
        # Held weakly: the leases of a reservation that was dropped cannot be released any more,
        # so they must expire.
        self._tracked.setdefault(lifetime_us, WeakSet()).add(reservation)
        if lifetime_us not in self._tasks:
            task = self._tasks[lifetime_us] = PeriodicTask(
                lambda: self._run(lifetime_us),
                # Three renewals in a lifetime: two may be lost.
                lifetime_us / 3 / SECOND_US,
                failure_event="lease.renewal_failed",
                sleep=self._sleep,
            )
            task.start()

    async def _run(self, lifetime_us: int) -> object:
        tracked = self._tracked[lifetime_us]
        tracked.difference_update([each for each in tracked if not each.leases])
        await self._renew_all(tracked)
        if tracked:
            return None
        del self._tracked[lifetime_us]
        self._tasks.pop(lifetime_us, None)
        return DONE

    async def _renew_all(self, reservations: Iterable[Reservation]) -> None:
        renewed = {owner: owner.leases for owner in reservations if owner.leases}
        if renewed:
            await self._renew([lease for leases in renewed.values() for lease in leases])
        # The renewal of a lease that was released while it was in flight must be undone.
        released = {owner: leases for owner, leases in renewed.items() if not owner.leases}
        undone = [each for owner, leases in released.items() for each in owner.releases_of(leases)]
        if undone:
            await self._adjust(undone)

    async def aclose(self) -> None:
        """Stop renewing."""
        tasks, self._tasks = self._tasks, {}
        await asyncio.gather(*(task.stop() for task in tasks.values()))
