"""Experiment 4: a node is drained under load."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster
from support.e2e_eventually import eventually
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_scene import streams
from support.e2e_watch import Watch

PODS = 4


@pytest.mark.experiment(number=4)
def test_drained(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """The budget lets a drain take one pod at a time, and nobody notices that a node goes."""
    release = another_release("drained")
    cluster = release.cluster
    kept, node = _workers(cluster)
    # What has one pod only, the store and the load, is on the node that stays.
    store = {"nodeSelector": {"kubernetes.io/hostname": kept}}
    release.install(installed, {"replicaCount": PODS, "valkey": store})
    with Watch(release, folder) as watch:
        leaving = [
            pod["metadata"]["name"] for pod in watch.pods() if pod["spec"]["nodeName"] == node
        ]
        assert len(leaving) >= 2, f"expected two pods on {node}, seen {leaving}"
        try:
            cluster.kubectl("cordon", node)
            with Load(release, image, "drained", streams("drained", per_second=3), 240) as load:
                least = _drain(cluster, release, watch, node)
                eventually(
                    lambda: len(watch.ready()) == len(watch.pods()) == PODS,
                    within=timeouts.POD,
                    what=f"{PODS} pods without {node}",
                )
                load.stop()
                answers = load.answers()
        finally:
            cluster.kubectl("uncordon", node)
        more = {"taken": len(leaving), "fewest_healthy": least}
        row = report.record("drained", answers, watch, more)
    row.expect_lossless()
    assert not {pod for pod in watch.ready() if pod in leaving}
    assert least == PODS - 1, f"the budget keeps {PODS - 1} pods, {least} were left"


def _workers(cluster: Cluster) -> tuple[str, str]:
    """Return two nodes that take pods."""
    nodes = json.loads(cluster.get("/api/v1/nodes"))["items"]
    names = [each["metadata"]["name"] for each in nodes if "taints" not in each["spec"]]
    return names[0], names[1]


def _drain(cluster: Cluster, release: Release, watch: Watch, node: str) -> int:
    """Drain a node and return the fewest healthy pods that the budget had meanwhile."""
    path = f"/apis/policy/v1/namespaces/{release.namespace}/poddisruptionbudgets/{release.name}"
    fewest = PODS
    watch.mark("node drained")
    command = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data")
    selector = f"--pod-selector={release.selector}"
    with subprocess.Popen(
        cluster.kubectl_command(*command, selector, f"--timeout={timeouts.HELM}s"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as draining:
        while draining.poll() is None:
            status = json.loads(cluster.get(path))["status"]
            fewest = min(fewest, status["currentHealthy"])
        assert draining.stdout is not None
        told = draining.stdout.read()
    watch.mark("drain is over")
    assert draining.returncode == 0, told
    return fewest
