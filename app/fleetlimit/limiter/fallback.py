"""What happens while the shared store is away: each policy does what it says."""

import asyncio

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import Mode, OnStoreError
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.plan import Part, Plan, decision_of
from fleetlimit.limiter.ports import Sleep, Store
from fleetlimit.limiter.reservation import LeaseKeeper, Reservation

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
        self._leases = LeaseKeeper(local.settle, sleep=sleep)

    async def decide(self, plan: Plan, replicas: int) -> Reservation:
        """Return the decision, with what was spent locally.

        A policy in shadow refuses nothing and is not counted while the store is away.

        Args:
            plan: What the check asks of the shared store.
            replicas: Live replicas that share the limit, as far as known.
        """
        enforced = [part for part in plan.parts if part.mode is Mode.ENFORCE]
        closed = [part for part in enforced if self._refuses(plan, part, replicas)]
        if closed:
            results = tuple(
                _without(part, Outcome.FAIL_CLOSED if part in closed else Outcome.ALLOWED)
                for part in enforced
            )
            refused = Decision(Outcome.FAIL_CLOSED, Source.NONE, results, RETRY_US)
            return Reservation(refused, plan, 0, self._local.settle)
        opened = [part for part in enforced if part.policy.on_store_error is OnStoreError.ALLOW]
        shared = _shares(plan, [part for part in enforced if part not in opened], replicas)
        without = tuple(_without(part, Outcome.FAIL_OPEN) for part in opened)
        if not shared.parts:
            let_in = Decision(Outcome.FAIL_OPEN, Source.NONE, without)
            return Reservation(let_in, plan, 0, self._local.settle)
        taken = await self._local.take(shared.charges)
        decision = decision_of(
            shared,
            taken.verdicts,
            source=Source.LOCAL,
            spent=taken.spent,
        )
        decision = decision._replace(results=(*decision.results, *without))
        return self._leases.hold(Reservation(decision, shared, taken.now_us, self._local.settle))

    async def aclose(self) -> None:
        """Stop renewing local leases."""
        await self._leases.aclose()

    @staticmethod
    def _refuses(plan: Plan, part: Part, replicas: int) -> bool:
        """Tell whether a policy refuses, or has a share too small for the cost ever to pass."""
        if part.policy.on_store_error is OnStoreError.LOCAL:
            return any(each.units > each.quota.share(replicas).burst for each in plan.of(part))
        return part.policy.on_store_error is OnStoreError.DENY


def _without(part: Part, outcome: Outcome) -> PolicyResult:
    unasked = (None,) * len(part.quotas)
    return PolicyResult(part.policy.name, part.mode, outcome, part.quotas, unasked)


def _shares(plan: Plan, parts: list[Part], replicas: int) -> Plan:
    charges: list[Charge] = []
    shared: list[Part] = []
    for part in parts:
        first = len(charges)
        quotas = tuple(quota.share(replicas) for quota in part.quotas)
        pairs = zip(plan.of(part), quotas, strict=True)
        charges += [each._replace(quota=quota) for each, quota in pairs]
        shared.append(part._replace(first=first, last=len(charges), quotas=quotas))
    return Plan(tuple(shared), tuple(charges), plan.caller, plan.holds_leases)
