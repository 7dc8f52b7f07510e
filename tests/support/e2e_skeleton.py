"""Pods of a rendered chart that only occupy their nodes: for tests of scheduling and drains.

They have everything that the scheduler and the disruption budgets read, and neither the containers
nor what these need: Secrets, a store, CRDs. So any values file can be tried, whatever it refers to.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

_OF_THE_SCHEDULER: Final = (
    *("affinity", "nodeSelector", "tolerations", "topologySpreadConstraints"),
    *("priorityClassName", "schedulerName"),
)
"""Fields of a pod. Without resource requests: those are for nodes that are larger than a test's."""
_WAIT: Final = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
)


def skeletons(rendered: str, image: str, *, pods: int | None = None) -> list[dict[str, Any]]:
    """Return the workloads and disruption budgets of a rendered chart.

    Args:
        rendered: Manifests, as `helm template` prints them.
        image: Image with Python.
        pods: Number of pods of each Deployment, by default the one that the chart begins with.
    """
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    autoscaled = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["minReplicas"]
        for each in objects
        if each["kind"] == "HorizontalPodAutoscaler"
    }
    return list(_skeletons(objects, image, autoscaled, pods))


def _skeletons(
    objects: list[dict[str, Any]], image: str, autoscaled: Mapping[str, int], pods: int | None
) -> Iterator[dict[str, Any]]:
    for each in objects:
        name, spec = each["metadata"]["name"], each.get("spec", {})
        meta = {"name": name, "labels": each["metadata"].get("labels", {})}
        head = {"apiVersion": each["apiVersion"], "kind": each["kind"], "metadata": meta}
        if each["kind"] == "PodDisruptionBudget":
            yield {**head, "spec": spec}
        elif each["kind"] in {"Deployment", "StatefulSet"}:
            replicas = spec.get("replicas", autoscaled.get(name, 1))
            if each["kind"] == "Deployment" and pods is not None:
                replicas = pods
            kept = {
                key: spec[key] for key in ("selector", "serviceName", "strategy") if key in spec
            }
            template = {
                "metadata": {"labels": spec["template"]["metadata"]["labels"]},
                "spec": _pod(spec["template"]["spec"], image),
            }
            yield {**head, "spec": {**kept, "replicas": replicas, "template": template}}


def _pod(spec: Mapping[str, Any], image: str) -> dict[str, Any]:
    kept = {key: spec[key] for key in _OF_THE_SCHEDULER if key in spec}
    container = {
        "name": "skeleton",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", _WAIT],
    }
    return {
        **kept,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }
