"""Experiment 4: the autoscaler changes the number of pods under load."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster
from support.e2e_load import Load
from support.e2e_outage import SPENT
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import PATIENT, streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually
from support.tool import ROOT

FEW, MANY = 2, 6
AUTOSCALING = {
    "enabled": True,
    "minReplicas": FEW,
    "maxReplicas": MANY,
    # Percent of a CPU request of 100m: above the use of an idle pod, far below a loaded one.
    "targetCPUUtilizationPercentage": 30,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}},
}


@pytest.fixture
def metrics_server(cluster: Cluster) -> Iterator[None]:
    """Run the metrics-server on the cluster."""
    server, api = (ROOT / f"deploy/kind/metrics-{name}.yaml" for name in ("server", "api"))
    cluster.apply(server)
    try:
        # An API server that has once failed to reach this address keeps failing for a while.
        eventually(lambda: _answers(cluster), within=timeouts.POD, what="metrics-server answers")
        cluster.apply(api)
        eventually(
            lambda: "NodeMetrics" in cluster.kubectl("get", "nodes.metrics.k8s.io", "-o=yaml"),
            within=timeouts.POD,
            what="metrics of the nodes",
        )
        yield
    finally:
        for manifest in (api, server):
            cluster.kubectl("delete", "--ignore-not-found", f"--filename={manifest}")


def _answers(cluster: Cluster) -> bool:
    """Return whether the API server's node reaches the metrics-server through its Service."""
    service = cluster.kubectl(
        *("get", "service", "metrics-server", "--namespace=kube-system"),
        "--output=jsonpath={.spec.clusterIP}",
    )
    node = f"{cluster.name}-control-plane"
    url = f"https://{service}/livez"
    return cluster.on_node(node, "curl", "--silent", "--insecure", "--max-time", "2", url) == "ok"


@pytest.mark.experiment(number=4)
@pytest.mark.measured
@pytest.mark.usefixtures("metrics_server")
def test_autoscaler_adds_and_removes_pods_without_loss(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """The autoscaler runs six pods under high load and two under low load, without any loss.

    Callers exceed their limits under low load, too: that of its policy is a few requests per hour.
    """
    release = another_release("autoscaled")
    release.install(installed, PATIENT, {"autoscaling": AUTOSCALING})
    little = streams("autoscaled", per_second=1, policies=[SPENT])
    much = streams("autoscaled", per_second=15)
    with Watch(release, folder) as watch:
        with Load(release, image, "little", little, 500) as steady:
            _until(watch, FEW, "little load")
            until_offered(watch, steady)
            watch.begin("much load")
            with Load(release, image, "much", much, 240) as heavy:
                up_s = _until(watch, MANY, "much load")
                until_offered(watch, steady, heavy)
                heavy.stop()
                peak = heavy.answers()
            watch.begin("little load again")
            down_s = _until(watch, FEW, "little load again")
            until_offered(watch, steady)
            steady.stop()
            answers = steady.answers() + peak
        more = {"up_s": up_s, "down_s": down_s}
        row = report.record("autoscaled from two pods to six and back", answers, watch, more)
    row.expect_lossless()
    assert len(row.pods) >= MANY, row.pods


def _until(watch: Watch, pods: int, what: str) -> float:
    """Wait for a number of ready pods and return the duration in seconds."""
    start = time.monotonic()
    eventually(
        lambda: len(watch.ready()) == len(watch.pods()) == pods,
        within=timeouts.AUTOSCALED,
        what=f"{pods} pods for {what}",
    )
    return round(time.monotonic() - start, 1)
