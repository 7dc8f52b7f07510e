"""Skeletons of the kind suite: what the scheduler and the disruption budgets read of a chart."""

from typing import Any

import pytest
import yaml

from support.e2e_skeleton import skeletons

LABELS = {"app.kubernetes.io/instance": "fleetlimit"}
SPREAD = [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]


def workload(kind: str, **spec: object) -> dict[str, Any]:
    pod = {
        "topologySpreadConstraints": SPREAD,
        "serviceAccountName": "missing",
        "priorityClassName": "high",
        "volumes": [{"name": "a", "secret": {"secretName": "missing"}}],
        "containers": [{"name": "api", "image": "x", "resources": {"requests": {"cpu": 9}}}],
    }
    template = {"metadata": {"labels": LABELS, "annotations": {"a": "b"}}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": kind.lower(), "namespace": "elsewhere", "labels": LABELS},
        "spec": {"selector": {"matchLabels": LABELS}, "template": template, **spec},
    }


def test_pod_keeps_what_the_scheduler_reads_and_nothing_that_must_exist() -> None:
    """No Secret, ServiceAccount, volume or request of the pod is needed."""
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "budget", "labels": LABELS},
        "spec": {"maxUnavailable": 1},
    }
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    store = workload("StatefulSet", replicas=1, serviceName="s", volumeClaimTemplates=[{}])
    given = [workload("Deployment", replicas=3), store, budget, other]
    deployment, valkey, kept = skeletons(yaml.safe_dump_all(given), "python:3")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["topologySpreadConstraints"] == SPREAD
    assert pod["priorityClassName"] == "high"
    assert "missing" not in str(pod)
    assert "resources" not in str(pod)
    assert deployment["metadata"] == {"name": "deployment", "labels": LABELS}
    assert deployment["spec"]["template"]["metadata"] == {"labels": LABELS}
    assert valkey["spec"]["serviceName"] == "s"
    assert "volumeClaimTemplates" not in valkey["spec"]
    assert kept == budget


@pytest.mark.parametrize(
    ("given", "pods", "expected"),
    [({"replicas": 3}, None, 3), ({"replicas": 3}, 4, 4), ({}, None, 5), ({}, 4, 4)],
)
def test_number_of_pods_is_that_of_the_layout_or_of_the_chart(
    given: dict[str, int], pods: int | None, expected: int
) -> None:
    """An autoscaled Deployment begins with the minimum; a store has its own number always."""
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaler", "labels": LABELS},
        "spec": {"scaleTargetRef": {"name": "deployment"}, "minReplicas": 5},
    }
    objects = [workload("Deployment", **given), workload("StatefulSet", replicas=1), scaler]
    deployment, store = skeletons(yaml.safe_dump_all(objects), "python:3", pods=pods)
    assert deployment["spec"]["replicas"] == expected
    assert store["spec"]["replicas"] == 1
