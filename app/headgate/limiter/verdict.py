"""From a store's verdicts to a decision."""

from collections.abc import Mapping

from headgate.core.decision import (
    Decision,
    LimitResult,
    Outcome,
    PolicyResult,
    Source,
    Verdict,
)
from headgate.core.policy import Mode
from headgate.limiter.plan import Part, Plan


def decision_of(
    plan: Plan, verdicts: Mapping[int, Verdict], *, source: Source, spent: bool
) -> Decision:
    """Say what the verdicts mean; a charge without one was not asked."""
    results = tuple([_result(plan, part, verdicts) for part in plan.parts])
    outcomes = [result.outcome for result in results]
    if Outcome.DENIED in outcomes:
        # All refusing buckets must have room before the request passes: the longest wait counts.
        retry_us = max(
            verdict.retry_us
            for place, verdict in verdicts.items()
            if plan.charges[place].group == 0 and not verdict.fits
        )
        return Decision(Outcome.DENIED, source, results, retry_us)
    shadow = Outcome.SHADOW_DENIED in outcomes
    outcome = Outcome.SHADOW_DENIED if shadow else Outcome.ALLOWED
    return Decision(outcome, source, results, 0, spent)


def _result(plan: Plan, part: Part, verdicts: Mapping[int, Verdict]) -> PolicyResult:
    refused = part.impossible
    limits = []
    for place in range(part.first, part.last):
        verdict = verdicts.get(place)
        limits.append(LimitResult(plan.charges[place].quota, verdict))
        refused = refused or (verdict is not None and not verdict.fits)
    if not refused:
        outcome = Outcome.ALLOWED
    elif part.mode is Mode.ENFORCE:
        outcome = Outcome.DENIED
    else:
        outcome = Outcome.SHADOW_DENIED
    return PolicyResult(part.policy.name, part.mode, outcome, tuple(limits))
