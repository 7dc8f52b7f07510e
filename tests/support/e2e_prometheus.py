"""Prometheus (run by its Operator) and Jaeger on the cluster, and a client of Prometheus."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster, images
from support.tool import ROOT

NAMESPACE: Final = "observability"
"""Namespace of Prometheus and Jaeger."""
FOLDER: Final = ROOT / "deploy/observability"
_API: Final = f"/api/v1/namespaces/{NAMESPACE}/services/prometheus:http/proxy/api/v1"
_STEP_S: Final = 5

Labels = Mapping[str, str]


class Prometheus:
    """Client of the Prometheus of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """Return the `data` of a response of the HTTP API, for a path such as `query`.

        Raises:
            ValueError: Prometheus returned an error, which is the message.
        """
        try:
            text = self._cluster.get(f"{_API}/{path}?{urlencode(parameters or {})}")
        except HTTPError as error:
            raise ValueError(error.read().decode()) from error
        return json.loads(text)["data"]

    def at(self, expression: str, at_us: int | None = None) -> list[tuple[Labels, float]]:
        """Return the series of an instant query with their values, at a time or now."""
        when = {} if at_us is None else {"time": str(at_us / 1e6)}
        found = self.get("query", {"query": expression} | when)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def over(
        self, expression: str, start_us: int, end_us: int
    ) -> list[tuple[Labels, list[tuple[int, float]]]]:
        """Return the series of a range query with their times in microseconds and values.

        NaN values are omitted.
        """
        times = {"start": str(start_us / 1e6), "end": str(end_us / 1e6), "step": str(_STEP_S)}
        found = self.get("query_range", {"query": expression} | times)["result"]
        return [
            (
                each["metric"],
                [
                    (round(at * 1e6), float(value))
                    for at, value in each["values"]
                    if not math.isnan(float(value))
                ],
            )
            for each in found
        ]

    def exemplars(self, expression: str, start_us: int, end_us: int) -> list[Labels]:
        """Return the labels of the exemplars of a query's series within a time range."""
        times = {"start": str(start_us / 1e6), "end": str(end_us / 1e6)}
        found = self.get("query_exemplars", {"query": expression} | times)
        return [exemplar["labels"] for series in found for exemplar in series["exemplars"]]


def install_backends(cluster: Cluster) -> None:
    """Install the Prometheus Operator and Jaeger from `deploy/observability`."""
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
