"""From a store's verdicts to a decision."""

from collections.abc import Sequence

from fleetlimit.core.decision import (
    ALLOWED,
    DENIED,
    Decision,
    Outcome,
    PolicyResult,
    Source,
    Verdict,
)
from fleetlimit.core.made import made
from fleetlimit.core.policy import Mode
from fleetlimit.limiter.plan import Plan


def decision_of(
    plan: Plan, verdicts: Sequence[Verdict | None], *, source: Source, spent: bool
) -> Decision:
    """Say what the verdicts mean; a charge without one was not asked."""
    results: list[PolicyResult] = []
    outcome: Outcome = ALLOWED
    for policy, mode, first, last, quotas, impossible in plan.parts:
        refused, heard = impossible, tuple(verdicts[first:last])
        for verdict in heard:
            if verdict is not None and not verdict.fits:
                refused = True
        said: Outcome = ALLOWED
        if refused:
            said = DENIED if mode is Mode.ENFORCE else Outcome.SHADOW_DENIED
            outcome = DENIED if DENIED in {outcome, said} else said
        results.append(made(PolicyResult, (policy.name, mode, said, quotas, heard)))
    if outcome is DENIED:
        return Decision(outcome, source, tuple(results), _longest(plan, verdicts))
    return made(Decision, (outcome, source, tuple(results), 0, spent))


def _longest(plan: Plan, verdicts: Sequence[Verdict | None]) -> int:
    """Return the longest wait: all refusing buckets must have room before the request passes."""
    return max(
        verdict.retry_us
        for charge, verdict in zip(plan.charges, verdicts, strict=True)
        if charge.group == 0 and verdict is not None and not verdict.fits
    )
