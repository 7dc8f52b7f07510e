"""Assertions about requests during an outage of the store, whatever its cause."""

from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fleetlimit.core.decision import Outcome
from fleetlimit.core.quota import SECOND_US
from fleetlimit.demo.expected import max_admitted
from support import e2e_timeouts as timeouts
from support.e2e_load import Answers, Request
from support.e2e_outage import ALLOW, DENY, LOCAL, NONE, Outage
from support.e2e_scene import QUOTAS, STORE_TIMEOUT
from support.e2e_watch import Watch


def check_results_in_outages(answers: Answers, outages: Sequence[Outage]) -> None:
    """Check that each request during an outage got the response of its policy's `on_store_error`.

    Raises:
        AssertionError: A response differs, or a request failed while the store was reachable.
    """
    failed = answers.server_errors
    assert {(each.stream.policy, each.status) for each in failed} == {
        (DENY, HTTPStatus.SERVICE_UNAVAILABLE)
    }
    assert len(failed) == sum(len(_during(answers, each).server_errors) for each in outages)
    for outage in outages:
        away = _without_store(answers, outage)
        assert set(away.of(policy=DENY).statuses) == {HTTPStatus.SERVICE_UNAVAILABLE}, "deny"
        assert set(away.of(policy=ALLOW).statuses) == {HTTPStatus.OK}, "allow"
        shared = away.of(policy=LOCAL)
        assert set(shared.statuses) <= {HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS}, "local"
        for caller in {each.stream.caller for each in shared.requests}:
            mine = shared.of(caller=caller)
            most = max_admitted([QUOTAS[LOCAL]], mine.start_us, mine.end_us)
            assert mine.admitted <= most, f"local: {caller} got {mine.admitted} of {most}"


def check_counters_in_outages(watch: Watch, answers: Answers, outages: Sequence[Outage]) -> None:
    """Compare the counters of decisions without the store with the responses that clients got.

    Raises:
        AssertionError: They differ.
    """
    assert watch.decided(DENY, Outcome.FAIL_CLOSED) == len(answers.server_errors)
    let_in = answers.of(policy=ALLOW)
    least = sum(_without_store(let_in, each).admitted for each in outages)
    most = sum(_during(let_in, each).admitted for each in outages)
    assert least <= watch.decided(ALLOW, Outcome.FAIL_OPEN) <= most, (least, most)


def recovery_s(answers: Answers, outages: Sequence[Outage]) -> float:
    """Return the longest time from the end of an outage to its last failed request, in seconds."""
    failed = (
        request.done_us - outage.back_us
        for outage in outages
        for request in _during(answers, outage).server_errors
    )
    return max([0, *failed]) / SECOND_US


def too_slow(answers: Answers, within_s: float) -> tuple[Request, ...]:
    """Return the requests that exceeded their time limit.

    On a slow cluster the limit is the store timeout plus the slowest request that needs no store.

    Args:
        answers: Results of the requests.
        within_s: Time limit on a fast cluster, in seconds.
    """
    most_ms = max(within_s * 1000, STORE_TIMEOUT * 1000 + answers.of(policy=NONE).slowest_ms())
    return tuple(each for each in answers.requests if each.taken_us > most_ms * 1000)


def beyond(
    answers: Answers, outages: Sequence[Outage], *, forgotten: bool = False
) -> Mapping[str, int]:
    """Return for each policy the requests of one caller that the store did not count.

    Args:
        answers: Results of the requests.
        outages: Outages of the store.
        forgotten: Whether the store lost its state, which refills every bucket.
    """
    let_in = Counter(
        (each.stream.policy, each.stream.caller)
        for outage in outages
        for each in _during(answers, outage).requests
        if each.status == HTTPStatus.OK and each.stream.policy != DENY
    )
    return {
        policy: forgotten * quota.burst
        + max((count for (held, _), count in let_in.items() if held == policy), default=0)
        for policy, quota in QUOTAS.items()
    }


def _without_store(answers: Answers, outage: Outage) -> Answers:
    """Return the requests of an outage, from when cached denials of the store have expired."""
    return answers.between(outage.seen_us + round(timeouts.REMEMBERED * SECOND_US), outage.end_us)


def _during(answers: Answers, outage: Outage) -> Answers:
    """Return the requests of an outage, with those in flight at its start."""
    return answers.between(outage.start_us - SECOND_US, outage.over_us)
