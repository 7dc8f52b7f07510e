"""Client of the Jaeger on the cluster, and faults to inject into it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster
from support.e2e_process import Process
from support.e2e_prometheus import NAMESPACE

_API: Final = f"/api/v1/namespaces/{NAMESPACE}/services/jaeger:query/proxy/api/traces"
_SELECTOR: Final = "app.kubernetes.io/name=jaeger"
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class Span:
    """A span of a trace.

    Args:
        name: Name of the operation.
        number: Span id.
        parent: Id of the parent span; empty for the root span.
        tags: Attributes.
        pod: Pod of the process that recorded the span.
    """

    name: str
    number: str
    parent: str
    tags: Mapping[str, Any]
    pod: str


class Jaeger:
    """Client of the Jaeger of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def trace(self, number: str) -> Sequence[Span]:
        """Return the spans of a trace; empty for an unknown trace."""
        try:
            found = json.loads(self._cluster.get(f"{_API}/{number}"))["data"]
        except HTTPError as error:
            if error.code != _NOT_FOUND:
                raise
            return ()
        return _spans(found[0])

    def traces(self, service: str, tags: Mapping[str, str]) -> Sequence[Sequence[Span]]:
        """Return some recent traces of a service that have a span with these attributes."""
        wanted = {"service": service, "tags": json.dumps(dict(tags)), "limit": "20"}
        found = json.loads(self._cluster.get(f"{_API}?{urlencode(wanted)}"))["data"]
        return [_spans(each) for each in found]

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop Jaeger, and start it again at the end, without the earlier traces."""
        self._scale(0)
        try:
            yield
        finally:
            self._scale(1)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze Jaeger: it accepts connections and sends no response."""
        listed = self._kubectl("get", "pods", f"--selector={_SELECTOR}", "--output=name").split()
        pod = f"/api/v1/namespaces/{NAMESPACE}/pods/{listed[0].removeprefix('pod/')}"
        with Process(self._cluster, pod, "jaeger").frozen():
            yield

    def _scale(self, replicas: int) -> None:
        self._kubectl("scale", "deployment/jaeger", f"--replicas={replicas}")
        if replicas:
            self._kubectl("rollout", "status", "deployment/jaeger", f"--timeout={timeouts.POD}s")
        else:
            gone = ("--for=delete", "pods", f"--selector={_SELECTOR}", f"--timeout={timeouts.POD}s")
            self._kubectl("wait", *gone)

    def _kubectl(self, *arguments: str) -> str:
        within = timeouts.POD + timeouts.COMMAND
        return self._cluster.kubectl(f"--namespace={NAMESPACE}", *arguments, timeout=within)


def _spans(trace: Mapping[str, Any]) -> Sequence[Span]:
    pods = {
        number: next(
            (str(tag["value"]) for tag in process["tags"] if tag["key"] == "k8s.pod.name"), ""
        )
        for number, process in trace["processes"].items()
    }
    return tuple(
        Span(
            name=span["operationName"],
            number=span["spanID"],
            parent=next((each["spanID"] for each in span["references"]), ""),
            tags={tag["key"]: tag["value"] for tag in span["tags"]},
            pod=pods[span["processID"]],
        )
        for span in trace["spans"]
    )
