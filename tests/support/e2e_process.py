"""Process of a container on its node, to freeze or kill."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from support.e2e_cluster import Cluster


class Process:
    """First process of a pod's container, in the process namespace of its node."""

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
        """Freeze the process. Its connections stay open."""
        self.signal("STOP")
        try:
            yield
        finally:
            self.signal("CONT")

    def signal(self, name: str) -> None:
        """Send a signal such as `STOP`."""
        self._run("kill", f"-{name}", self._id)

    def _run(self, *command: str) -> str:
        return self._cluster.on_node(self._node, *command)
