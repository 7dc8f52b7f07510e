"""A decision says who is let in, and which policies refused."""

import pytest

from fleetlimit.core.decision import EXEMPT, Decision, Outcome, PolicyResult, Source
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
def test_only_denied_and_fail_closed_keep_out(
    outcome: Outcome,
    allowed: bool,  # noqa: FBT001 - a case's column
) -> None:
    """A request is let in by every outcome but `denied` and `fail_closed`."""
    assert Decision(outcome, Source.STORE).allowed is allowed


def test_violated_names_the_policies_that_refused() -> None:
    """A policy in shadow, or one that would have let the request in, has not refused it."""
    results = tuple(PolicyResult(outcome.value, Mode.ENFORCE, outcome) for outcome in Outcome)
    decision = Decision(Outcome.DENIED, Source.STORE, results)
    assert decision.denied_by == ("denied", "fail_closed")


def test_exempt_request_has_no_policy() -> None:
    """A request that no policy holds is let in without asking anybody."""
    assert EXEMPT.allowed
    assert (EXEMPT.source, EXEMPT.results, EXEMPT.denied_by) == (Source.NONE, (), ())
