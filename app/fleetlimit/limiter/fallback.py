"""What happens while the shared store is away: each policy does what it says."""

import asyncio

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import Mode, OnStoreError
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.plan import Plan, PolicyPlan, decision_of
from fleetlimit.limiter.ports import Sleep, Store
from fleetlimit.limiter.reservation import LeaseRenewer, Reservation

RETRY_US = SECOND_US
"""What a client is told to wait when a policy refuses without the store: about two probes."""


class Fallback:
    """Decides without the shared store.

    Args:
        local: A store of this process, for the policies that say `local`.
        sleep: How to wait between renewals of local leases.
    """

    def __init__(self, local: Store, *, sleep: Sleep = asyncio.sleep) -> None:
        self._local = local
        self._lease_renewer = LeaseRenewer(local.adjust, sleep=sleep)

    async def decide(self, plan: Plan, replicas: int) -> Reservation:
        """Return the decision, with what was spent locally.

        A policy in shadow refuses nothing and is not counted while the store is away.

        Args:
            plan: What the check asks of the shared store.
            replicas: Live replicas that share the limit, as far as known.
        """
        enforced = [part for part in plan.policy_plans if part.mode is Mode.ENFORCE]
        closed = [part for part in enforced if self._fails_closed(plan, part, replicas)]
        if closed:
            results = tuple(
                _unchecked_result(part, Outcome.FAIL_CLOSED if part in closed else Outcome.ALLOWED)
                for part in enforced
            )
            refused = Decision(Outcome.FAIL_CLOSED, Source.NONE, results, RETRY_US)
            return Reservation(refused, plan, 0, self._local.adjust)
        opened = [part for part in enforced if part.policy.on_store_error is OnStoreError.ALLOW]
        shared = _per_replica_plan(
            plan, [part for part in enforced if part not in opened], replicas
        )
        without = tuple(_unchecked_result(part, Outcome.FAIL_OPEN) for part in opened)
        if not shared.policy_plans:
            let_in = Decision(Outcome.FAIL_OPEN, Source.NONE, without)
            return Reservation(let_in, plan, 0, self._local.adjust)
        taken = await self._local.acquire(shared.charges)
        decision = decision_of(
            shared,
            taken.statuses,
            source=Source.LOCAL,
            spent=taken.spent,
        )
        decision = decision._replace(results=(*decision.results, *without))
        return self._lease_renewer.track(
            Reservation(decision, shared, taken.store_now_us, self._local.adjust)
        )

    async def aclose(self) -> None:
        """Stop renewing local leases."""
        await self._lease_renewer.aclose()

    @staticmethod
    def _fails_closed(plan: Plan, part: PolicyPlan, replicas: int) -> bool:
        """Tell whether a policy refuses, or has a share too small for the cost ever to pass."""
        if part.policy.on_store_error is OnStoreError.LOCAL:
            return any(
                each.units > each.quota.per_replica(replicas).burst
                for each in plan.charges_of(part)
            )
        return part.policy.on_store_error is OnStoreError.DENY


def _unchecked_result(part: PolicyPlan, outcome: Outcome) -> PolicyResult:
    unasked = (None,) * len(part.quotas)
    return PolicyResult(part.policy.name, part.mode, outcome, part.quotas, unasked)


def _per_replica_plan(plan: Plan, parts: list[PolicyPlan], replicas: int) -> Plan:
    charges: list[Charge] = []
    shared: list[PolicyPlan] = []
    for part in parts:
        first = len(charges)
        quotas = tuple(quota.per_replica(replicas) for quota in part.quotas)
        pairs = zip(plan.charges_of(part), quotas, strict=True)
        charges += [each._replace(quota=quota) for each, quota in pairs]
        shared.append(part._replace(first=first, last=len(charges), quotas=quotas))
    return Plan(tuple(shared), tuple(charges), plan.subject_hash, plan.has_leases)
