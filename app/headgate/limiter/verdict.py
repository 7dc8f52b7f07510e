"""From a store's verdicts to a decision."""

from collections.abc import Sequence

from headgate.core.decision import (
    Decision,
    Outcome,
    PolicyResult,
    Source,
    Verdict,
)
from headgate.core.made import made
from headgate.core.policy import Mode
from headgate.limiter.plan import Plan

_ALLOWED: Outcome = Outcome.ALLOWED
_DENIED: Outcome = Outcome.DENIED


def decision_of(
    plan: Plan, verdicts: Sequence[Verdict | None], *, source: Source, spent: bool
) -> Decision:
    """Say what the verdicts mean; a charge without one was not asked."""
    results, outcome = [], _ALLOWED
    for policy, mode, first, last, quotas, impossible in plan.parts:
        refused, heard = impossible, tuple(verdicts[first:last])
        for verdict in heard:
            if verdict is not None and not verdict.fits:
                refused = True
        said = _ALLOWED
        if refused:
            said = _DENIED if mode is Mode.ENFORCE else Outcome.SHADOW_DENIED
            outcome = _DENIED if _DENIED in {outcome, said} else said
        results.append(made(PolicyResult, (policy.name, mode, said, quotas, heard)))
    if outcome is _DENIED:
        return Decision(outcome, source, tuple(results), _longest(plan, verdicts))
    return made(Decision, (outcome, source, tuple(results), 0, spent))


def _longest(plan: Plan, verdicts: Sequence[Verdict | None]) -> int:
    """Return the longest wait: all refusing buckets must have room before the request passes."""
    return max(
        verdict.retry_us
        for charge, verdict in zip(plan.charges, verdicts, strict=True)
        if charge.group == 0 and verdict is not None and not verdict.fits
    )
