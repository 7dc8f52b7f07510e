"""What shows that the limit holds, on the cluster: Prometheus by its Operator, and Jaeger."""

from typing import Final

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster, images
from support.e2e_prometheus import NAMESPACE
from support.tool import ROOT

FOLDER: Final = ROOT / "deploy/observability"


def prepare(cluster: Cluster) -> None:
    """Install the Prometheus Operator and Jaeger as `deploy/observability` has them.

    Args:
        cluster: Where; its nodes have the images.
    """
    cluster.install_crds(images()["PROMETHEUS_OPERATOR_CRDS"])
    for name in ("prometheus-operator", "jaeger"):
        cluster.apply(FOLDER / f"{name}.yaml")
        _wait(cluster, f"deployment/{name}")


def start_prometheus(cluster: Cluster) -> None:
    """Have the Operator run a Prometheus, which knows nothing of what was before.

    It begins with the monitors and rules that are there. What comes later reaches it as a change of
    a Secret, for which kubelets look each minute.
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
