"""Assertions of the kind suite about an outage, on valid and invalid results."""

import pytest

pytest.importorskip("kr8s", reason="the kind suite needs the extra e2e")

from support import e2e_away as away
from support.e2e_load import Answers, Request, Stream
from support.e2e_outage import ALLOW, DENY, LOCAL, NONE, Outage
from support.e2e_scene import QUOTAS, STORE_TIMEOUT

SECOND = 1_000_000
OUTAGE = Outage(10 * SECOND, 11 * SECOND, 20 * SECOND, 21 * SECOND, 23 * SECOND)
REFUSED = 503
SHARE = QUOTAS[LOCAL].burst


def asked(policy: str, at: float, status: int = 200, taken: float = 0.001) -> Request:
    """Return a request with its time of sending and duration in seconds."""
    stream = Stream(policy, "a", "GET", "/", 1)
    return Request(stream, round(at * SECOND), round(taken * SECOND), status, "")


def answers(*requests: Request) -> Answers:
    return Answers(requests)


AS_SAID = (asked(DENY, 15, REFUSED), asked(ALLOW, 15), *[asked(LOCAL, 15)] * SHARE)


def test_policies_that_apply_on_store_error_pass() -> None:
    """The store denies before and after the outage; during it each policy applies its setting."""
    others = (
        asked(ALLOW, 9, 429),
        asked(LOCAL, 16, 429),
        asked(DENY, 10, REFUSED),
        asked(DENY, 24),
    )
    away.check_results_in_outages(answers(*AS_SAID, *others), [OUTAGE])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(asked(DENY, 16), id="deny lets in"),
        pytest.param(asked(ALLOW, 16, 429), id="allow refuses"),
        pytest.param(asked(ALLOW, 16, REFUSED), id="allow fails"),
        pytest.param(asked(ALLOW, 16, 500), id="an error"),
        pytest.param(asked(LOCAL, 15), id="local lets in too much"),
        pytest.param(asked(DENY, 24, REFUSED), id="a failure when all is over"),
        pytest.param(asked(DENY, 8, REFUSED), id="a failure before"),
    ],
)
def test_wrong_result_fails(wrong: Request) -> None:
    """Each wrong result raises."""
    with pytest.raises(AssertionError):
        away.check_results_in_outages(answers(*AS_SAID, wrong), [OUTAGE])


def test_recovery_is_the_time_until_the_last_failure() -> None:
    """It counts from the recovery of the store to the last failed response."""
    assert away.recovery_s(answers(asked(DENY, 12, REFUSED)), [OUTAGE]) == 0
    assert away.recovery_s(answers(asked(DENY, 22, REFUSED, taken=0.5)), [OUTAGE]) == 1.5


def test_too_slow_on_a_fast_cluster() -> None:
    """The given time is the limit."""
    within = STORE_TIMEOUT + 0.1
    slow = asked(LOCAL, 12, taken=within + 0.01)
    found = answers(asked(NONE, 12, 404, taken=0.09), asked(LOCAL, 12, taken=within - 0.01), slow)
    assert away.too_slow(found, within) == (slow,)


def test_too_slow_on_a_slow_cluster() -> None:
    """The limit is the store timeout plus the slowest request that needs no store."""
    slow = asked(LOCAL, 12, taken=STORE_TIMEOUT + 0.21)
    waited = asked(LOCAL, 12, taken=STORE_TIMEOUT + 0.19)
    found = answers(asked(NONE, 12, 404, taken=0.2), waited, slow)
    assert away.too_slow(found, STORE_TIMEOUT + 0.1) == (slow,)


def test_requests_decided_without_the_store_may_exceed_a_quota() -> None:
    """Requests admitted during outages count, except under `deny`; lost state adds a burst."""
    found = answers(*AS_SAID, asked(LOCAL, 30), asked(DENY, 10))
    kept = away.beyond(found, [OUTAGE])
    assert (kept[LOCAL], kept[ALLOW], kept[DENY], kept["spoofed"]) == (SHARE, 1, 0, 0)
    forgotten = away.beyond(found, [OUTAGE], forgotten=True)
    assert all(forgotten[policy] == kept[policy] + QUOTAS[policy].burst for policy in QUOTAS)
