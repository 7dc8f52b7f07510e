"""Experiment 2: pods are killed under load, one after the other."""

import pytest
from kr8s.objects import Pod

from fleetlimit.core.decision import Outcome
from support import e2e_timeouts as timeouts
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report, measure
from support.e2e_setup import streams
from support.e2e_watch import Watch
from support.eventually import eventually

KILLS = 4


@pytest.mark.experiment(number=2)
def test_killed_pods_lose_only_requests_in_flight(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """Units admitted by a killed pod stay spent, and only its requests in flight are lost."""
    killed_us: list[int] = []
    lost: list[str] = []
    with Load(release, image, "killed", streams("killed", per_second=4), 180) as load:
        for _ in range(KILLS):
            lost.append(eventually(lambda: _oldest(watch), within=timeouts.POD, what="3 pods"))
            killed_us.append(watch.mark("pod killed"))
            Pod.get(lost[-1], namespace=release.namespace, api=release.cluster.api).delete(
                grace_period=0, force=True
            )
        eventually(lambda: _oldest(watch), within=timeouts.POD, what="3 pods are ready again")
        load.stop()
        answers = load.answers()
    eventually(
        lambda: all(_agree(watch, pod) for pod in watch.ready()),
        within=timeouts.TALLIES_AGREE,
        what="counters and logs of the living agree",
    )
    run = measure("killed", answers, watch, {"killed": len(lost)})
    report.add(run)
    row = run.row
    row.expect(overshoot=0, audited=0, server_errors=0)
    row.expect_use()
    within_us = round(timeouts.LOST_POD * 1_000_000)
    stray = [
        fault
        for fault in answers.faults
        if not any(
            0 <= fault.done_us - at_us <= within_us + fault.duration_us for at_us in killed_us
        )
    ]
    assert not stray, f"lost without a pod being lost: {stray[:5]}"
    # Counts of a killed pod after its last scrape are lost; the other counts agree.
    unseen = [
        answers.between(watch.last_seen_us(pod) - 100_000, at_us + within_us)
        for pod, at_us in zip(lost, killed_us, strict=True)
    ]
    faults = len(answers.faults)
    for counted, seen, gone in (
        (row.counters[0], row.admitted, sum(each.admitted for each in unseen)),
        (row.counters[1], row.denied, sum(each.denied for each in unseen)),
    ):
        assert seen - gone <= counted <= seen + faults, (seen, gone, counted, faults)
    assert len(set(lost)) == KILLS


def _oldest(watch: Watch) -> str:
    """Return the name of the oldest of three ready pods; empty if there are fewer."""
    ready = watch.ready()
    pods = sorted(watch.pods(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return str(pods[0]["metadata"]["name"]) if len(ready) == len(pods) == 3 else ""


def _agree(watch: Watch, pod: str) -> bool:
    watch.read_counters()
    counted = watch.decisions()[pod]
    denied = sum(count for (_, outcome), count in counted.items() if outcome == Outcome.DENIED)
    return denied == watch.logged(pod).total()
