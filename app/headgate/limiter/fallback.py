"""What happens while the shared store is away: each policy does what it says."""

from dataclasses import replace

from headgate.core.charge import Charge
from headgate.core.decision import Decision, LimitResult, Outcome, PolicyResult, Source
from headgate.core.policy import Mode, OnStoreError
from headgate.core.quota import SECOND_US
from headgate.limiter.plan import Part, Plan
from headgate.limiter.ports import Store
from headgate.limiter.verdict import decision_of

RETRY_US = SECOND_US
"""What a client is told to wait when a policy refuses without the store: about two probes."""


class Fallback:
    """Decides without the shared store.

    Args:
        local: A store of this process, for the policies that say `local`.
    """

    def __init__(self, local: Store) -> None:
        self._local = local

    async def decide(self, plan: Plan, replicas: int) -> tuple[Decision, Plan]:
        """Return the decision, and the plan of what was spent locally.

        A policy in shadow refuses nothing and is not counted while the store is away.

        Args:
            plan: What the check asks of the shared store.
            replicas: Live replicas that share the limit, as far as known.
        """
        enforced = [part for part in plan.parts if part.mode is Mode.ENFORCE]
        closed = [part for part in enforced if self._refuses(plan, part, replicas)]
        if closed:
            results = tuple(
                _without(plan, part, Outcome.FAIL_CLOSED if part in closed else Outcome.ALLOWED)
                for part in enforced
            )
            refused = Decision(Outcome.FAIL_CLOSED, Source.NONE, results, RETRY_US)
            return refused, Plan((), ())
        opened = [part for part in enforced if part.policy.on_store_error is OnStoreError.ALLOW]
        shared = _shares(plan, [part for part in enforced if part not in opened], replicas)
        without = tuple(_without(plan, part, Outcome.FAIL_OPEN) for part in opened)
        if not shared.parts:
            return Decision(Outcome.FAIL_OPEN, Source.NONE, without), shared
        taken = await self._local.take(shared.charges)
        decision = decision_of(
            shared,
            dict(enumerate(taken.verdicts)),
            source=Source.LOCAL,
            spent=taken.spent,
        )
        return replace(decision, results=(*decision.results, *without)), shared

    @staticmethod
    def _refuses(plan: Plan, part: Part, replicas: int) -> bool:
        """Tell whether a policy refuses, or has a share too small for the cost ever to pass."""
        if part.policy.on_store_error is OnStoreError.LOCAL:
            return any(each.units > each.quota.share(replicas).burst for each in plan.of(part))
        return part.policy.on_store_error is OnStoreError.DENY


def _without(plan: Plan, part: Part, outcome: Outcome) -> PolicyResult:
    limits = tuple(LimitResult(charge.quota) for charge in plan.of(part))
    return PolicyResult(part.policy.name, part.mode, outcome, limits)


def _shares(plan: Plan, parts: list[Part], replicas: int) -> Plan:
    charges: list[Charge] = []
    shared: list[Part] = []
    for part in parts:
        first = len(charges)
        charges += [replace(each, quota=each.quota.share(replicas)) for each in plan.of(part)]
        shared.append(replace(part, first=first, last=len(charges)))
    return Plan(tuple(shared), tuple(charges))
