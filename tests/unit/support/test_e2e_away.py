"""What the kind suite compares for the time without the store can fail."""

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
    """Return a request that was sent at a second and took this many seconds."""
    stream = Stream(policy, "a", "GET", "/", 1)
    return Request(stream, round(at * SECOND), round(taken * SECOND), status, "")


def answers(*requests: Request) -> Answers:
    return Answers(requests)


AS_SAID = (asked(DENY, 15, REFUSED), asked(ALLOW, 15), *[asked(LOCAL, 15)] * SHARE)


def test_policies_that_do_what_they_say() -> None:
    """Before and after the outage the store refuses; within it each policy does as it says."""
    others = (
        asked(ALLOW, 9, 429),
        asked(LOCAL, 16, 429),
        asked(DENY, 10, REFUSED),
        asked(DENY, 24),
    )
    away.each_does_what_it_says(answers(*AS_SAID, *others), [OUTAGE])


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
def test_policies_that_do_not(wrong: Request) -> None:
    """Each of these is seen."""
    with pytest.raises(AssertionError):
        away.each_does_what_it_says(answers(*AS_SAID, wrong), [OUTAGE])


def test_recovery_is_the_time_until_the_last_failure() -> None:
    """It counts from the store's return to the last answer that failed."""
    assert away.recovery_s(answers(asked(DENY, 12, REFUSED)), [OUTAGE]) == 0
    assert away.recovery_s(answers(asked(DENY, 22, REFUSED, taken=0.5)), [OUTAGE]) == 1.5


def test_what_is_too_slow_where_the_cluster_is_fast() -> None:
    """The given time is the most that a request takes."""
    within = STORE_TIMEOUT + 0.1
    slow = asked(LOCAL, 12, taken=within + 0.01)
    found = answers(asked(NONE, 12, 404, taken=0.09), asked(LOCAL, 12, taken=within - 0.01), slow)
    assert away.too_slow(found, within) == (slow,)


def test_what_is_too_slow_where_the_cluster_is_slow() -> None:
    """The wait for the store and the slowest of those that do not wait for it are the most."""
    slow = asked(LOCAL, 12, taken=STORE_TIMEOUT + 0.21)
    waited = asked(LOCAL, 12, taken=STORE_TIMEOUT + 0.19)
    found = answers(asked(NONE, 12, 404, taken=0.2), waited, slow)
    assert away.too_slow(found, STORE_TIMEOUT + 0.1) == (slow,)


def test_what_the_store_has_no_part_in_may_be_beyond_a_quota() -> None:
    """It is what was let in within outages, but not under `deny`; a new allowance is added."""
    found = answers(*AS_SAID, asked(LOCAL, 30), asked(DENY, 10))
    kept = away.beyond(found, [OUTAGE])
    assert (kept[LOCAL], kept[ALLOW], kept[DENY], kept["spoofed"]) == (SHARE, 1, 0, 0)
    forgotten = away.beyond(found, [OUTAGE], forgotten=True)
    assert all(forgotten[policy] == kept[policy] + QUOTAS[policy].burst for policy in QUOTAS)
