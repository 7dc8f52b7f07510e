"""Experiment 5: Valkey is killed under load, stays down for a while, and restarts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fleetlimit.core.quota import SECOND_US
from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_broken import WITH_STORE
from support.e2e_load import Answers
from support.e2e_outage import SPENT, Outage, record_outages, run_with_fault
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import QUOTAS, callers
from support.e2e_store import Store
from support.e2e_watch import Watch
from support.eventually import eventually


@pytest.mark.experiment(number=5)
@pytest.mark.measured(*WITH_STORE)
def test_killed_store_without_persistence_loses_the_counts(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """Counts are lost, pods and audit report it, and each policy applies `on_store_error`."""
    # A release of its own, because its audit reports the overshoot for five minutes.
    release = another_release("forgetful")
    release.install(installed)
    with Watch(release, folder) as watch:
        answers, outage = _run_with_killed_store(release, image, watch)
        _check("store killed, without persistence", answers, outage, watch, report, forgotten=True)
        eventually(lambda: watch.audited, within=timeouts.AUDITED, what="the audit reports it")
    for caller in callers("store"):
        after = answers.of(policy=SPENT, caller=caller).between(outage.end_us, answers.end_us)
        assert after.admitted >= QUOTAS[SPENT].burst


@pytest.mark.experiment(number=5)
@pytest.mark.measured(*WITH_STORE)
def test_killed_store_with_persistence_keeps_the_counts(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """Counts survive, every pod reports the new server, and no limit is exceeded."""
    release = another_release("persistent")
    persistence = {"enabled": True, "size": "64Mi"}
    release.install(installed, {"replicaCount": 2, "valkey": {"persistence": persistence}})
    with Watch(release, folder) as watch:
        answers, outage = _run_with_killed_store(release, image, watch)
        _check("store killed, with persistence", answers, outage, watch, report, forgotten=False)
    after = answers.of(policy=SPENT).between(outage.over_us, answers.end_us)
    assert after.admitted == 0
    assert watch.audited == 0
    assert {each.stream.caller for each in after.requests} == set(callers("store"))


def _run_with_killed_store(release: Release, image: str, watch: Watch) -> tuple[Answers, Outage]:
    fault = Store(release).killed()
    return run_with_fault("store", fault, release, image, watch, SPENT, what="store killed")


def _check(
    experiment: str,
    answers: Answers,
    outage: Outage,
    watch: Watch,
    report: Report,
    *,
    forgotten: bool,
) -> None:
    """Check the results that do not depend on the loss of state."""
    record_outages(
        experiment,
        answers,
        [outage],
        watch,
        report,
        forgotten=forgotten,
        more={"down_s": (outage.back_us - outage.seen_us) / SECOND_US},
    )
    for counter, event, times in (
        (names.STORE_STATE_LOST, names.LOG_STATE_LOST, int(forgotten)),
        (names.STORE_SERVER_CHANGES, names.LOG_SERVER_CHANGED, int(not forgotten)),
    ):
        for pod in watch.ready():
            assert watch.counted(counter)[pod][()] == times, (counter.name, pod)
            assert watch.events(event)[pod] == times, (event, pod)
