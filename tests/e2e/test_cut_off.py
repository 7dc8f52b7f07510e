"""Experiment 6: Valkey is cut off, slow or paused, with its connections open."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest

from fleetlimit.core.quota import SECOND_US
from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_load import Answers, Load
from support.e2e_outage import (
    NONE,
    Outage,
    beyond,
    check_counters_in_outages,
    check_results_in_outages,
    load,
    recovery_s,
    run_outage,
    too_slow,
    until_over,
    until_seen,
    until_used,
)
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import STORE_TIMEOUT
from support.e2e_store import Store
from support.e2e_watch import Watch

PAUSES = 3


@pytest.mark.experiment(number=6)
def test_dropped_packets_delay_requests_only_until_the_timeout(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """With dropped packets, no request takes longer than the store timeout."""
    fault = Store(release).cut_off()
    answers, outage = _run_with_fault("cut-off", fault, release, image, watch)
    _check("store cut off", answers, [outage], watch, report)


@pytest.mark.experiment(number=6)
def test_delayed_packets_delay_requests_only_until_the_timeout(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """With delayed packets, no request takes longer than the store timeout."""
    store = Store(release)
    try:
        with store.delayed(timeouts.DELAY):
            pass
    except AssertionError as error:
        if "qdisc kind is unknown" not in str(error):
            raise
        pytest.skip(f"the kernel has no netem: {str(error).splitlines()[-1]}")
    fault = store.delayed(timeouts.DELAY)
    answers, outage = _run_with_fault("slow", fault, release, image, watch)
    _check("store slow", answers, [outage], watch, report)


@pytest.mark.experiment(number=6)
def test_paused_store_delays_requests_only_until_the_timeout(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """With a paused server, no request takes longer than the store timeout."""
    outages = []
    with Load(release, image, "paused", load("paused"), 240) as loading:
        for _ in range(PAUSES):
            until_used(watch)
            start_us = watch.mark("store paused")
            Store(release).pause(timeouts.PAUSE)
            seen_us = until_seen(watch)
            # The recovery follows the end of the pause.
            end_us = start_us + round(timeouts.PAUSE * SECOND_US)
            outages.append(Outage(start_us, seen_us, end_us, end_us, until_over(watch)))
        until_used(watch)
        loading.stop()
        answers = loading.answers()
    _check("store paused", answers, outages, watch, report)


def _run_with_fault(
    name: str, fault: AbstractContextManager[None], release: Release, image: str, watch: Watch
) -> tuple[Answers, Outage]:
    """Send requests before, during and after the fault."""
    with Load(release, image, name, load(name), 240) as loading:
        until_used(watch)
        outage = run_outage(watch, f"store {name}", fault)
        until_used(watch)
        loading.stop()
        return loading.answers(), outage


def _check(
    experiment: str, answers: Answers, outages: Sequence[Outage], watch: Watch, report: Report
) -> None:
    """Check the results of a store that is reachable and does not respond."""
    waited = [
        each
        for each in answers.requests
        if each.duration_us >= STORE_TIMEOUT * SECOND_US and each.stream.policy != NONE
    ]
    more = {
        "fail_closed": len(answers.server_errors),
        "recovery_s": recovery_s(answers, outages),
        "waited": len(waited),
        "slowest_without_policy_ms": answers.of(policy=NONE).slowest_ms(),
    }
    row = report.record(experiment, answers, watch, more, beyond=beyond(answers, outages))
    check_results_in_outages(answers, outages)
    check_counters_in_outages(watch, answers, outages)
    slow = too_slow(answers, STORE_TIMEOUT + timeouts.WITHOUT_STORE)
    assert not slow, f"{len(slow)} requests took too long: {slow[:5]}"
    assert waited, "no request met the fault"
    assert more["recovery_s"] <= timeouts.RECOVERY
    row.expect(overshoot=0, audited=0, refused=0, broken=0)
    for pod in watch.ready():
        assert set(+watch.counted(names.STORE_ERRORS)[pod]) == {("timeout",)}, pod
        assert watch.events(names.LOG_BREAKER_OPEN)[pod] == len(outages), pod
        for event in (names.LOG_STATE_LOST, names.LOG_SERVER_CHANGED):
            assert watch.events(event)[pod] == 0, (event, pod)
