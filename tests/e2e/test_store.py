"""Experiment 5: Valkey is killed under load, stays down for a while, and restarts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_load import Answers, Load
from support.e2e_outage import (
    NONE,
    SPENT,
    Outage,
    beyond,
    check_counters_in_outages,
    check_results_in_outages,
    load,
    recovery_s,
    run_outage,
    too_slow,
    until_spent,
    until_used,
)
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import QUOTAS, callers
from support.e2e_store import Store
from support.e2e_watch import Watch
from support.eventually import eventually


@pytest.mark.experiment(number=5)
def test_killed_store_without_persistence_loses_the_counts(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """Counts are lost, pods and audit report it, and each policy applies `on_store_error`."""
    answers, outage = _run_with_killed_store(release, image, watch)
    _check("store forgets", answers, outage, watch, report, forgotten=True)
    for caller in callers("store"):
        after = answers.of(policy=SPENT, caller=caller).between(outage.end_us, answers.end_us)
        assert after.admitted >= QUOTAS[SPENT].burst
    eventually(lambda: watch.audited, within=timeouts.AUDITED, what="the audit reports it")


@pytest.mark.experiment(number=5)
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
        _check("store remembers", answers, outage, watch, report, forgotten=False)
    after = answers.of(policy=SPENT).between(outage.over_us, answers.end_us)
    assert after.admitted == 0
    assert watch.audited == 0
    assert {each.stream.caller for each in after.requests} == set(callers("store"))


def _run_with_killed_store(release: Release, image: str, watch: Watch) -> tuple[Answers, Outage]:
    """Send requests before, during and after the outage of the store."""
    with Load(release, image, "store", load("store", SPENT), 240) as loading:
        until_used(watch)
        # A killed server loses the writes of its last two seconds, which had not reached the disk.
        until_spent(watch)
        outage = run_outage(watch, "store killed", Store(release).killed())
        until_used(watch)
        loading.stop()
        return loading.answers(), outage


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
    more = {
        "away_s": (outage.back_us - outage.seen_us) / 1e6,
        "fail_closed": len(answers.server_errors),
        "recovery_s": recovery_s(answers, [outage]),
        "slowest_without_policy_ms": answers.of(policy=NONE).slowest_ms(),
    }
    above = beyond(answers, [outage], forgotten=forgotten)
    row = report.record(experiment, answers, watch, more, beyond=above)
    check_results_in_outages(answers, [outage])
    check_counters_in_outages(watch, answers, [outage])
    assert more["recovery_s"] <= timeouts.RECOVERY
    assert not too_slow(answers, timeouts.SLOWEST_REQUEST)
    row.expect(overshoot=0, refused=0, broken=0)
    for counter, event, times in (
        (names.STORE_STATE_LOST, names.LOG_STATE_LOST, int(forgotten)),
        (names.STORE_SERVER_CHANGES, names.LOG_SERVER_CHANGED, int(not forgotten)),
    ):
        for pod in watch.ready():
            assert watch.counted(counter)[pod][()] == times, (counter.name, pod)
            assert watch.events(event)[pod] == times, (event, pod)
