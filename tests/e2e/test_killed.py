"""Experiment 2: pods are killed under load, one after the other."""

import time

from kr8s.objects import Pod

from headgate.core.decision import Outcome
from support import e2e_timeouts as timeouts
from support.e2e_cluster import NAMESPACE, Cluster
from support.e2e_eventually import eventually
from support.e2e_load import Load
from support.e2e_report import Report, measure
from support.e2e_scene import streams
from support.e2e_watch import Watch

KILLS = 4


def test_killed(cluster: Cluster, image: str, watch: Watch, report: Report) -> None:
    """What dead pods let in is spent, and only requests on their way to them are lost."""
    killed_us: list[int] = []
    lost: list[str] = []
    with Load(cluster, image, "killed", streams("killed", per_second=4), 180) as load:
        for _ in range(KILLS):
            lost.append(eventually(lambda: _oldest(watch), within=timeouts.POD, what="3 pods"))
            killed_us.append(time.time_ns() // 1000)
            Pod.get(lost[-1], namespace=NAMESPACE, api=cluster.api).delete(
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
    # What dead pods counted after the last look is gone with them: less, and never more.
    row = measure("killed", answers, watch, {"killed": len(lost)})
    report.add(row)
    assert not row.overshoot
    assert row.admitted >= 0.6 * row.permitted
    assert not row.server_errors
    within_us = timeouts.LOST_POD * 1_000_000
    stray = [
        fault
        for fault in answers.faults
        if not any(0 <= fault.done_us - at_us <= within_us + fault.taken_us for at_us in killed_us)
    ]
    assert not stray, f"lost without a pod being lost: {stray[:5]}"
    assert row.counters[0] <= row.admitted + len(answers.faults)
    assert row.counters[1] <= row.denied + len(answers.faults)
    assert len(set(lost)) == KILLS


def _oldest(watch: Watch) -> str:
    """Return the name of the oldest of three ready pods; nothing while there are fewer."""
    ready = watch.ready()
    pods = sorted(watch.pods(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return str(pods[0]["metadata"]["name"]) if len(ready) == len(pods) == 3 else ""


def _agree(watch: Watch, pod: str) -> bool:
    watch.look()
    counted = watch.decisions()[pod]
    refused = sum(count for (_, outcome), count in counted.items() if outcome == Outcome.DENIED)
    return refused == watch.logged(pod).total()
