"""Experiment 3: a rolling restart and a `helm upgrade` under load."""

import time

from kr8s.objects import Deployment

from support import e2e_timeouts as timeouts
from support.e2e_cluster import NAMESPACE, RELEASE, Cluster
from support.e2e_eventually import eventually
from support.e2e_load import Load
from support.e2e_report import Report
from support.e2e_scene import streams
from support.e2e_watch import Watch


def test_rolling(
    cluster: Cluster, installed: dict[str, object], image: str, watch: Watch, report: Report
) -> None:
    """No request is lost while every pod is replaced twice, and nobody gets more than one's due."""
    first = set(watch.ready())
    with Load(cluster, image, "rolling", streams("rolling", per_second=4), 300) as load:
        _restart(cluster)
        eventually(
            lambda: len(watch.ready()) == 3 and not first & set(watch.ready()),
            within=timeouts.HELM,
            what="the restart replaces every pod",
        )
        second = set(watch.ready())
        stamp = str(time.time_ns())
        cluster.install(installed, {"podAnnotations": {"e2e.headgate/upgraded": stamp}})
        eventually(
            lambda: len(watch.ready()) == 3 and not second & set(watch.ready()),
            within=timeouts.HELM,
            what="the upgrade replaces every pod",
        )
        assert load.running
        load.stop()
        answers = load.answers()
    row = report.record("rolling", answers, watch, {"pods": len(watch.decisions())})
    assert not row.server_errors + row.refused + row.broken, answers.faults[:5]
    assert not row.overshoot
    assert row.admitted >= 0.6 * row.permitted


def _restart(cluster: Cluster) -> None:
    """Do what `kubectl rollout restart` does."""
    deployment = Deployment.get(RELEASE, namespace=NAMESPACE, api=cluster.api)
    stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time_ns())}
    deployment.patch({"spec": {"template": {"metadata": {"annotations": stamp}}}})
