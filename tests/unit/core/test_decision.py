"""Decisions: which outcomes admit a request, and the policies that denied it."""

import pytest

from fleetlimit.core.decision import EXEMPT, BucketStatus, Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import Mode


@pytest.mark.parametrize(
    ("outcome", "allowed"),
    [
        (Outcome.ALLOWED, True),
        (Outcome.DENIED, False),
        (Outcome.SHADOW_DENIED, True),
        (Outcome.FAIL_OPEN, True),
        (Outcome.FAIL_CLOSED, False),
        (Outcome.EXEMPT, True),
    ],
)
def test_decision_rejects_denied_and_fail_closed_only(
    outcome: Outcome,
    allowed: bool,  # noqa: FBT001 - a case's column
) -> None:
    """Every outcome but `denied` and `fail_closed` admits the request."""
    assert Decision(outcome, Source.STORE).allowed is allowed


def test_decision_denied_by_names_the_denying_policies() -> None:
    """A policy in shadow mode, or one that would have admitted the request, is not named."""
    results = tuple(PolicyResult(outcome.value, Mode.ENFORCE, outcome) for outcome in Outcome)
    decision = Decision(Outcome.DENIED, Source.STORE, results)
    assert decision.denied_by == ("denied", "fail_closed")


def test_exempt_decision_has_no_results() -> None:
    """A request without a policy is admitted without the store."""
    assert EXEMPT.allowed
    assert (EXEMPT.source, EXEMPT.results, EXEMPT.denied_by) == (Source.NONE, (), ())


def test_durations_are_readable_in_seconds() -> None:
    """Users read seconds; microseconds stay inside."""
    status = BucketStatus(
        allowed=False,
        remaining=0,
        retry_after_us=1_500_000,
        next_unit_after_us=250_000,
        reset_after_us=60_000_000,
    )
    assert (status.retry_after, status.next_unit_after, status.reset_after) == (1.5, 0.25, 60)
    decision = Decision(Outcome.DENIED, Source.STORE, retry_after_us=1_500_000)
    assert decision.retry_after == 1.5
