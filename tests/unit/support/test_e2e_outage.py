"""Assertions of the kind suite about an outage, on valid and invalid results."""

import pytest

pytest.importorskip("kr8s", reason="the kind suite needs the extra e2e")

from support import e2e_outage
from support.e2e_load import Answers, Request, Stream
from support.e2e_outage import ALLOW, DENY, LOCAL, Outage
from support.e2e_setup import QUOTAS, STORE_TIMEOUT
from support.e2e_timeouts import STUCK_REQUEST

SECOND = 1_000_000
OUTAGE = Outage(10 * SECOND, 11 * SECOND, 20 * SECOND, 21 * SECOND, 23 * SECOND)
UNAVAILABLE = 503
SHARE = QUOTAS[LOCAL].burst


def request(policy: str, at: float, status: int = 200, duration: float = 0.001) -> Request:
    """Return a request with its time of sending and duration in seconds."""
    stream = Stream(policy, "a", "GET", "/", 1)
    return Request(stream, round(at * SECOND), round(duration * SECOND), status, "")


def answers(*requests: Request) -> Answers:
    return Answers(requests)


AS_CONFIGURED = (request(DENY, 15, UNAVAILABLE), request(ALLOW, 15), *[request(LOCAL, 15)] * SHARE)


def test_policies_that_apply_on_store_error_pass() -> None:
    """The store denies before and after the outage; during it each policy applies its setting."""
    others = (
        request(ALLOW, 9, 429),
        request(LOCAL, 16, 429),
        request(DENY, 10, UNAVAILABLE),
        request(DENY, 24),
    )
    e2e_outage.check_results_in_outages(answers(*AS_CONFIGURED, *others), [OUTAGE])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(request(DENY, 16), id="deny admits"),
        pytest.param(request(ALLOW, 16, 429), id="allow rejects"),
        pytest.param(request(ALLOW, 16, UNAVAILABLE), id="allow fails"),
        pytest.param(request(ALLOW, 16, 500), id="an error"),
        pytest.param(request(LOCAL, 15), id="local admits too much"),
        pytest.param(request(DENY, 24, UNAVAILABLE), id="a failure when all is over"),
        pytest.param(request(DENY, 8, UNAVAILABLE), id="a failure before"),
    ],
)
def test_wrong_result_fails(wrong: Request) -> None:
    """Each wrong result raises."""
    with pytest.raises(AssertionError):
        e2e_outage.check_results_in_outages(answers(*AS_CONFIGURED, wrong), [OUTAGE])


def test_recovery_is_the_time_until_the_last_failure() -> None:
    """It counts from the recovery of the store to the last failed response."""
    assert e2e_outage.recovery_s(answers(request(DENY, 12, UNAVAILABLE)), [OUTAGE]) == 0
    assert (
        e2e_outage.recovery_s(answers(request(DENY, 22, UNAVAILABLE, duration=0.5)), [OUTAGE])
        == 1.5
    )


def test_stuck_request_waited_for_the_store() -> None:
    """A request that outlives the store timeout many times over waited for the store."""
    stuck = request(LOCAL, 12, duration=STUCK_REQUEST)
    slow = request(LOCAL, 12, duration=STORE_TIMEOUT + 0.6)
    assert e2e_outage.stuck_requests(answers(slow, stuck)) == (stuck,)


def test_requests_decided_without_the_store_may_exceed_a_quota() -> None:
    """Requests sent during outages may, except under `deny`; lost state adds a burst."""
    kept = e2e_outage.promised([OUTAGE])
    assert kept.without_store.keys() == QUOTAS.keys() - {DENY}
    assert kept.without_store[LOCAL] == [(9 * SECOND, 23 * SECOND)]
    assert not kept.lost
    forgotten = e2e_outage.promised([OUTAGE], forgotten=True)
    assert forgotten.without_store == kept.without_store
    assert forgotten.lost == {policy: quota.burst for policy, quota in QUOTAS.items()}
