"""Prometheus (run by its Operator) and Jaeger on the cluster."""

from typing import Final

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster, images
from support.e2e_prometheus import NAMESPACE
from support.tool import ROOT

FOLDER: Final = ROOT / "deploy/observability"


def prepare(cluster: Cluster) -> None:
    """Install the Prometheus Operator and Jaeger from `deploy/observability`.

    Args:
        cluster: Cluster with the images on its nodes.
    """
    cluster.install_crds(images()["PROMETHEUS_OPERATOR_CRDS"])
    for name in ("prometheus-operator", "jaeger"):
        cluster.apply(FOLDER / f"{name}.yaml")
        _wait(cluster, f"deployment/{name}")


def start_prometheus(cluster: Cluster) -> None:
    """Start a Prometheus without data through the Operator.

    It starts with the existing monitors and rules. Later ones arrive in a Secret, which kubelets
    refresh once a minute.
    """
    manifest = FOLDER / "prometheus.yaml"
    cluster.kubectl(
        "delete", "--ignore-not-found", "--cascade=foreground", f"--filename={manifest}"
    )
    cluster.apply(manifest)
    _wait(cluster, "prometheus/prometheus")


def _wait(cluster: Cluster, name: str) -> None:
    within = timeouts.BACKEND + timeouts.COMMAND
    available = ("--for=condition=Available", name, f"--timeout={timeouts.BACKEND}s")
    cluster.kubectl("wait", f"--namespace={NAMESPACE}", *available, timeout=within)
