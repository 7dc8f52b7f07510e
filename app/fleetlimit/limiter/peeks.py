"""Peeks: what checks would decide now, read from the store without spending."""

from collections.abc import Sequence

from fleetlimit.core.decision import BucketStatus, Decision, PolicyResult, Source
from fleetlimit.limiter.admission import decide_without_store
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.plan import Plan, with_exempt
from fleetlimit.limiter.store_gateway import StoreGateway


class Peeks:
    """Decides plans without spending.

    Args:
        gateway: Access to the shared store.
        held_times: How long leases are held, from which a wait for one is estimated.
    """

    def __init__(self, gateway: StoreGateway, held_times: HeldTimes) -> None:
        self._gateway = gateway
        self._held_times = held_times

    async def decide(self, plan: Plan) -> Decision:
        """Return the decision about a plan now.

        Raises:
            StoreError: The store is unavailable.
        """
        if not plan.charges:
            return with_exempt(decide_without_store(plan), plan)
        result = await self._gateway.peek(plan.charges)
        decision = _decision(plan, self._estimated(plan, result.statuses))
        return with_exempt(decision, plan) if plan.exempt else decision

    async def decide_each(
        self, plans: Sequence[Plan]
    ) -> list[tuple[PolicyResult, Sequence[BucketStatus]] | None]:
        """Return the result of the policy of each plan; None for one that has no limit.

        All of them are one call of the store, and a bucket that several share is looked at once.

        Raises:
            StoreError: The store is unavailable.
        """
        charges = {charge.key: charge for plan in plans for charge in plan.charges}
        if not charges:
            return [None] * len(plans)
        acquired = await self._gateway.peek([*charges.values()])
        status_by_key = dict(zip(charges, acquired.statuses, strict=True))
        results: list[tuple[PolicyResult, Sequence[BucketStatus]] | None] = []
        for plan in plans:
            if not plan.charges:
                results.append(None)
                continue
            statuses = self._estimated(plan, [status_by_key[each.key] for each in plan.charges])
            results.append((_decision(plan, statuses).results[0], statuses))
        return results

    def _estimated(self, plan: Plan, statuses: Sequence[BucketStatus]) -> Sequence[BucketStatus]:
        return self._held_times.estimate(plan, statuses) if plan.has_leases else statuses


def _decision(plan: Plan, statuses: Sequence[BucketStatus]) -> Decision:
    return plan.decision(statuses, source=Source.STORE, spent=False)
