"""Fallback: decides while the shared store is unavailable, by each policy's `on_store_error`."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Final

from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import Mode, OnStoreError
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.lease_renewer import LeaseRenewer
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.limiter.plan import Plan, PolicyPlan
from fleetlimit.limiter.ports import Sleep, Store
from fleetlimit.limiter.reservation import Reservation

RETRY_US: Final = SECOND_US
"""Retry time of a request that a policy with `on_store_error: deny` rejects: about two probes."""


class Fallback:
    """Decides without the shared store.

    Args:
        local: Store of this process, for policies with `on_store_error: local`.
        held_times: How long requests hold the units of concurrency limits.
        own_loop: Event loop of the limiter.
        sleep: Pause between renewals of local leases.
    """

    def __init__(
        self,
        local: Store,
        held_times: HeldTimes,
        own_loop: OwnLoop,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._local = local
        self._held_times = held_times
        self._own_loop = own_loop
        self._lease_renewer = LeaseRenewer(local.renew, self._adjust, held_times, sleep=sleep)

    async def decide(self, plan: Plan, replicas: int) -> Reservation:
        """Return the decision, with the units that were spent locally.

        Policies in shadow mode are not evaluated.

        Args:
            plan: Charges of the check, for the shared store.
            replicas: Live replicas that share the limit.
        """
        enforced = [each for each in plan.policy_plans if each.mode is Mode.ENFORCE]
        closed = [each for each in enforced if self._fails_closed(plan, each, replicas)]
        if closed:
            results = tuple(
                unchecked_result(each, Outcome.FAIL_CLOSED if each in closed else Outcome.ALLOWED)
                for each in enforced
            )
            rejection = Decision(Outcome.FAIL_CLOSED, Source.NONE, results, RETRY_US)
            return Reservation(rejection, plan, None, self._adjust)
        failed_open = [
            each for each in enforced if each.policy.on_store_error is OnStoreError.ALLOW
        ]
        unchecked = tuple(unchecked_result(each, Outcome.FAIL_OPEN) for each in failed_open)
        local = [each for each in enforced if each not in failed_open]
        if not local:
            admission = Decision(Outcome.FAIL_OPEN, Source.NONE, unchecked)
            return Reservation(admission, plan, None, self._adjust)
        share = _per_replica_plan(plan, local, replicas)
        reply = await self._local.acquire(share.charges)
        statuses = reply.statuses
        if share.has_leases:
            statuses = self._held_times.estimate(share, statuses)
        decision = share.decision(statuses, source=Source.LOCAL, spent=reply.spent)
        decision = replace(decision, results=(*decision.results, *unchecked))
        reservation = Reservation(decision, share, reply, self._adjust)
        self._lease_renewer.track(reservation)
        return reservation

    def _adjust(self, adjustments: Sequence[Adjustment]) -> Awaitable[Sequence[int]]:
        """Correct local charges.

        Raises:
            ConfigError: The limiter belongs to another event loop.
        """
        self._own_loop.require()
        return self._local.adjust(adjustments)

    async def aclose(self) -> None:
        """Stop renewing local leases."""
        await self._lease_renewer.aclose()

    @staticmethod
    def _fails_closed(plan: Plan, policy_plan: PolicyPlan, replicas: int) -> bool:
        """Return whether a policy denies, or its share is too small to ever hold the cost."""
        if policy_plan.policy.on_store_error is OnStoreError.LOCAL:
            charges = plan.charges_of(policy_plan)
            return any(each.units > each.quota.per_replica(replicas).burst for each in charges)
        return policy_plan.policy.on_store_error is OnStoreError.DENY


def unchecked_result(policy_plan: PolicyPlan, outcome: Outcome = Outcome.ALLOWED) -> PolicyResult:
    """Return the result of a policy whose buckets were not checked."""
    statuses = (None,) * len(policy_plan.quotas)
    return PolicyResult(
        policy_plan.policy.name,
        policy_plan.mode,
        outcome,
        policy_plan.quotas,
        statuses,
        policy_plan.is_own,
    )


def _per_replica_plan(plan: Plan, policy_plans: list[PolicyPlan], replicas: int) -> Plan:
    part = plan.part(policy_plans)
    charges = [replace(each, quota=each.quota.per_replica(replicas)) for each in part.charges]
    shares = [
        replace(each, quotas=tuple(quota.per_replica(replicas) for quota in each.quotas))
        for each in part.policy_plans
    ]
    return replace(part, policy_plans=tuple(shares), charges=tuple(charges))
