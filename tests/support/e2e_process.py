"""The process of a container on its node, to freeze it or to kill it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from support.e2e_cluster import Cluster


class Process:
    """The first process of a container, as its node sees it.

    Args:
        cluster: Where.
        pod: Path of its pod at the API server.
        container: The container's name.
    """

    def __init__(self, cluster: Cluster, pod: str, container: str) -> None:
        self._cluster = cluster
        found = json.loads(cluster.get(pod))
        self._node: str = found["spec"]["nodeName"]
        ids = {each["name"]: each["containerID"] for each in found["status"]["containerStatuses"]}
        number = ids[container].removeprefix("containerd://")
        template = "--template={{.info.pid}}"
        self._id = self._run("crictl", "inspect", "--output=go-template", template, number).strip()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it do nothing, its connections staying open."""
        self.signal("STOP")
        try:
            yield
        finally:
            self.signal("CONT")

    def signal(self, name: str) -> None:
        """Send it a signal, such as `STOP`."""
        self._run("kill", f"-{name}", self._id)

    def _run(self, *command: str) -> str:
        return self._cluster.on_node(self._node, *command)
