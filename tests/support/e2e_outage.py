"""Outage of the store: its load, its phases, and checks of the requests during it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from fleetlimit.core.decision import Outcome
from fleetlimit.core.quota import SECOND_US
from fleetlimit.demo.expected import max_admitted
from support import e2e_timeouts as timeouts
from support.e2e_load import Answers, Load, Request, Stream
from support.e2e_release import Release
from support.e2e_report import Report, Row
from support.e2e_setup import ALGORITHMS, CALLERS, QUOTAS, streams
from support.e2e_tally import Promise, until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

DENY: Final = "fixed"
"""Policy with `on_store_error: deny`."""
ALLOW: Final = "sliding"
"""Policy with `on_store_error: allow`."""
LOCAL: Final = "bucket"
"""Policy with `on_store_error: local`."""
SPENT: Final = "spoofed"
"""Policy that needs minutes to refill a unit, so a spent bucket stays empty in an experiment."""
NONE: Final = "none"
"""Stands for requests without a policy, which never wait for the store."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Outage of the store; all times are in microseconds since the epoch.

    Args:
        start_us: Start of the fault.
        seen_us: Every pod's circuit breaker is open.
        end_us: Start of the recovery.
        back_us: The store is ready.
        over_us: Every pod's circuit breaker is closed.
    """

    start_us: int
    seen_us: int
    end_us: int
    back_us: int
    over_us: int


def load(experiment: str, *more: str) -> tuple[Stream, ...]:
    """Return streams of all callers of an experiment, fast enough to exhaust a local share soon.

    One stream requests an unknown route: it measures how slow the cluster itself is.
    """
    limited = streams(experiment, per_second=4, policies=(*ALGORITHMS, *more))
    return (*limited, Stream(NONE, "unlimited", "GET", "/nothing", per_second=10))


def until_used(watch: Watch) -> None:
    """Wait until the store has decided requests: as many as the callers may have in a window."""
    before = watch.decided(DENY, Outcome.ALLOWED)
    eventually(
        lambda: watch.decided(DENY, Outcome.ALLOWED) >= before + CALLERS * QUOTAS[DENY].limit,
        within=timeouts.POD,
        what="requests are decided by the store",
    )


def until_spent(watch: Watch) -> None:
    """Wait until a bucket of `SPENT` has been empty for seconds."""
    eventually(
        lambda: watch.decided(SPENT, Outcome.DENIED) >= 60,
        within=timeouts.POD,
        what="a bucket was spent seconds ago",
    )


def until_seen(watch: Watch) -> int:
    """Wait until every circuit breaker is open, and return the time."""
    _until(watch, 1, "every pod detects the outage")
    return watch.mark("seen by all")


def until_over(watch: Watch) -> int:
    """Wait until every circuit breaker is closed, begin a phase, and return the time."""
    _until(watch, 0, "every pod calls the store again")
    return watch.begin("found by all")


def _until(watch: Watch, breaker_open: int, what: str) -> None:
    eventually(lambda: watch.breaker_states() == {breaker_open}, within=timeouts.POD, what=what)


def run_outage(
    watch: Watch,
    loading: Load,
    what: str,
    fault: AbstractContextManager[None],
    until: Callable[[], object] = lambda: None,
) -> Outage:
    """Keep the fault until many requests were decided without the store, then wait for recovery.

    The outage is a phase, and the recovery begins another one. During the fault, `until` waits for
    a further condition.
    """
    start_us = watch.begin(what)
    with fault:
        seen_us = until_seen(watch)
        denied = watch.decided(LOCAL, Outcome.DENIED)
        eventually(
            lambda: watch.decided(DENY, Outcome.FAIL_CLOSED) >= 80,
            within=timeouts.POD,
            what="requests are decided without the store",
        )
        eventually(
            # More than cached denials of the store can explain.
            lambda: watch.decided(LOCAL, Outcome.DENIED) >= denied + 40,
            within=timeouts.POD,
            what="local shares are used up",
        )
        until_offered(watch, loading)
        until()
        end_us = watch.mark("store returns")
    back_us = watch.mark("store is back")
    return Outage(start_us, seen_us, end_us, back_us, until_over(watch))


def run_with_fault(
    name: str,
    fault: AbstractContextManager[None],
    release: Release,
    image: str,
    watch: Watch,
    *more: str,
    what: str,
) -> tuple[Answers, Outage]:
    """Send requests before, during and after a fault of the store, whose name is `what`."""
    with Load(release, image, name, load(name, *more), 240) as loading:
        until_used(watch)
        if SPENT in more:
            # A killed server loses the writes of its last two seconds.
            until_spent(watch)
        until_offered(watch, loading)
        outage = run_outage(watch, loading, what, fault)
        until_used(watch)
        until_offered(watch, loading)
        loading.stop()
        return loading.answers(), outage


def record_outages(
    experiment: str,
    answers: Answers,
    outages: Sequence[Outage],
    watch: Watch,
    report: Report,
    *,
    forgotten: bool = False,
    more: Mapping[str, object] | None = None,
) -> Row:
    """Record an experiment, and check what all outages have in common.

    `forgotten` means that the store lost its state. `more` are figures that only this experiment
    has.

    Raises:
        AssertionError: A figure or a response is wrong; the report has the experiment nevertheless.
    """
    recovered_s = recovery_s(answers, outages)
    figures = {
        "fail_closed": len(answers.server_errors),
        "recovery_s": recovered_s,
        "slowest_without_policy_ms": answers.of(policy=NONE).slowest_ms(),
    }
    promise = promised(outages, forgotten=forgotten)
    row = report.record(experiment, answers, watch, {**figures, **(more or {})}, promise=promise)
    check_results_in_outages(answers, outages)
    check_counters_in_outages(watch, answers, outages)
    stuck = stuck_requests(answers)
    assert not stuck, f"{len(stuck)} requests waited for the store: {stuck[:5]}"
    assert recovered_s <= timeouts.RECOVERY
    row.expect(refused=0, broken=0)
    return row


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
        during = _without_store(answers, outage)
        assert set(during.of(policy=DENY).statuses) == {HTTPStatus.SERVICE_UNAVAILABLE}, "deny"
        assert set(during.of(policy=ALLOW).statuses) == {HTTPStatus.OK}, "allow"
        shared = during.of(policy=LOCAL)
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
    admitted = answers.of(policy=ALLOW)
    least = sum(_without_store(admitted, each).admitted for each in outages)
    most = sum(_during(admitted, each).admitted for each in outages)
    assert least <= watch.decided(ALLOW, Outcome.FAIL_OPEN) <= most, (least, most)


def recovery_s(answers: Answers, outages: Sequence[Outage]) -> float:
    """Return the longest time from the end of an outage to its last failed request, in seconds."""
    failed = (
        request.done_us - outage.back_us
        for outage in outages
        for request in _during(answers, outage).server_errors
    )
    return max([0, *failed]) / SECOND_US


def stuck_requests(answers: Answers) -> tuple[Request, ...]:
    """Return the requests that waited for the store instead of the store timeout."""
    stuck_us = timeouts.STUCK_REQUEST * SECOND_US
    return tuple(each for each in answers.requests if each.duration_us >= stuck_us)


def promised(outages: Sequence[Outage], *, forgotten: bool = False) -> Promise:
    """Return the requests beyond a policy that are promised for outages.

    Every policy but `DENY` may admit without the store during an outage. A store that lost its
    state (`forgotten`) has refilled every bucket once.
    """
    spans = [_span(each) for each in outages]
    return Promise(
        without_store={policy: spans for policy in QUOTAS if policy != DENY},
        lost={policy: quota.burst for policy, quota in QUOTAS.items() if forgotten},
    )


def _without_store(answers: Answers, outage: Outage) -> Answers:
    """Return the requests of an outage, from when cached denials of the store have expired."""
    return answers.between(
        outage.seen_us + round(timeouts.DENIAL_CACHED * SECOND_US), outage.end_us
    )


def _during(answers: Answers, outage: Outage) -> Answers:
    """Return the requests of an outage, with those in flight at its start."""
    return answers.between(*_span(outage))


def _span(outage: Outage) -> tuple[int, int]:
    return outage.start_us - SECOND_US, outage.over_us
