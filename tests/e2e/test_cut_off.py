"""Experiment 6: Valkey is cut off, slow or paused, with its connections open."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import pytest

from fleetlimit.core.quota import SECOND_US
from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_broken import WITH_STORE
from support.e2e_load import Answers, Load
from support.e2e_outage import (
    NONE,
    Outage,
    load,
    record_outages,
    run_with_fault,
    until_over,
    until_seen,
    until_used,
)
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import STORE_TIMEOUT
from support.e2e_store import Store
from support.e2e_tally import until_offered
from support.e2e_watch import Series, Watch

PAUSES = 3


@pytest.mark.experiment(number=6)
@pytest.mark.measured(*WITH_STORE)
def test_dropped_packets_delay_requests_only_until_the_timeout(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """With dropped packets, every request is decided at the store timeout."""
    fault = Store(release).cut_off()
    answers, outage = run_with_fault("cut-off", fault, release, image, watch, what="store cut off")
    # The network may end the opening of a connection before its timeout.
    also = {("connection",)}
    _check("packets to the store dropped", answers, [outage], watch, report, also=also)


@pytest.mark.experiment(number=6)
@pytest.mark.measured(*WITH_STORE)
def test_delayed_packets_delay_requests_only_until_the_timeout(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """With delayed packets, every request is decided at the store timeout."""
    store = Store(release)
    try:
        with store.delayed(timeouts.DELAY):
            pass
    except AssertionError as error:
        if "qdisc kind is unknown" not in str(error):
            raise
        pytest.skip(f"the kernel has no netem: {str(error).splitlines()[-1]}")
    fault = store.delayed(timeouts.DELAY)
    answers, outage = run_with_fault("slow", fault, release, image, watch, what="store slow")
    _check("packets to the store delayed", answers, [outage], watch, report)


@pytest.mark.experiment(number=6)
@pytest.mark.measured(*WITH_STORE)
def test_paused_store_delays_requests_only_until_the_timeout(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """With a paused server, every request is decided at the store timeout."""
    outages = []
    with Load(release, image, "paused", load("paused"), 240) as loading:
        for _ in range(PAUSES):
            until_used(watch)
            until_offered(watch, loading)
            start_us = watch.begin("store paused")
            Store(release).pause(timeouts.PAUSE)
            seen_us = until_seen(watch)
            # The recovery follows the end of the pause.
            end_us = start_us + round(timeouts.PAUSE * SECOND_US)
            outages.append(Outage(start_us, seen_us, end_us, end_us, until_over(watch)))
        until_used(watch)
        until_offered(watch, loading)
        loading.stop()
        answers = loading.answers()
    _check(f"store paused {PAUSES} times", answers, outages, watch, report)


def _check(
    experiment: str,
    answers: Answers,
    outages: Sequence[Outage],
    watch: Watch,
    report: Report,
    *,
    also: AbstractSet[Series] = frozenset(),
) -> None:
    """Check the results of a store that does not respond: calls time out, or fail `also` so."""
    waited = [
        each
        for each in answers.requests
        if each.duration_us >= STORE_TIMEOUT * SECOND_US and each.stream.policy != NONE
    ]
    row = record_outages(
        experiment,
        answers,
        outages,
        watch,
        report,
        more={"waited": len(waited)},
    )
    assert waited, "no request met the fault"
    row.expect(audited=0)
    for pod in watch.ready():
        kinds = set(+watch.counted(names.STORE_ERRORS)[pod])
        assert kinds - also == {("timeout",)}, (pod, kinds)
        assert watch.events(names.LOG_BREAKER_OPEN)[pod] == len(outages), pod
        for event in (names.LOG_STATE_LOST, names.LOG_SERVER_CHANGED):
            assert watch.events(event)[pod] == 0, (event, pod)
