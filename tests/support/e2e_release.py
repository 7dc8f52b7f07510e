"""Release of the chart in a namespace: install, upgrade, uninstall."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from kr8s.objects import Deployment, Namespace

from support import e2e_timeouts as timeouts
from support.e2e_broken import Breakage, works
from support.e2e_cluster import Cluster
from support.helm import HELM
from support.tool import ROOT

CHART: Final = ROOT / "charts/fleetlimit"
NAME: Final = "fleetlimit"


class Release:
    """Release of the chart.

    Args:
        cluster: Cluster of the release.
        namespace: Its namespace.
        folder: Folder for files with values.
        breakage: Function that breaks the limiter by the values of each installation.
        binary: Name or path of Helm.
    """

    name = NAME

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        folder: Path,
        breakage: Breakage = works,
        binary: str = HELM,
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._folder = folder
        self._breakage = breakage
        self._binary = binary

    @property
    def valkey(self) -> str:
        """Name of the StatefulSet of the bundled store."""
        return f"{self.name}-valkey"

    @property
    def selector(self) -> str:
        """Label selector of the API pods."""
        return f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=api"

    @property
    def pods(self) -> str:
        """Path of the namespace's pods at the API server."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def kubectl(
        self, *arguments: str, timeout: float = timeouts.COMMAND, stdin: str | None = None
    ) -> str:
        """Run kubectl in the namespace."""
        return self.cluster.kubectl(
            f"-n={self.namespace}", *arguments, timeout=timeout, stdin=stdin
        )

    def helm(self, command: str, *arguments: str) -> str:
        """Run a Helm command on the release."""
        release = (command, self.name, f"--namespace={self.namespace}")
        return self.cluster.helm(*release, *arguments, binary=self._binary)

    def create_namespace(self) -> None:
        """Create the namespace."""
        Namespace(self.namespace, api=self.cluster.api).create()

    def restrict(self) -> None:
        """Enforce Pod Security Standard `restricted` for pods, and warn about pod templates."""
        labels = (f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn"))
        self.kubectl("label", "namespace", self.namespace, *labels)

    def install(self, *values: Mapping[str, object], within: int = timeouts.HELM) -> None:
        """Install the chart, or upgrade it, and wait until all pods are ready.

        Later values override earlier ones.
        """
        files = []
        for number, each in enumerate(self._breakage(values)):
            file = self._folder / f"{self.namespace}-{number}.yaml"
            file.write_text(yaml.safe_dump(dict(each)))
            files.append(f"--values={file}")
        timeout = f"--timeout={within}s"
        self.helm("upgrade", str(CHART), "--install", *files, "--wait", timeout)

    def restart(self) -> None:
        """Restart the Deployment like `kubectl rollout restart`."""
        deployment = Deployment.get(self.name, namespace=self.namespace, api=self.cluster.api)
        stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time_ns())}
        deployment.patch({"spec": {"template": {"metadata": {"annotations": stamp}}}})

    def uninstall(self) -> None:
        """Delete the release and its namespace, and wait until the release is gone."""
        self.helm("uninstall", "--wait", "--ignore-not-found")
        Namespace(self.namespace, api=self.cluster.api).delete()

    def wait_until_deleted(self) -> None:
        """Wait until the namespace is gone."""
        self.kubectl(
            "wait",
            "--for=delete",
            f"namespace/{self.namespace}",
            f"--timeout={timeouts.POD}s",
            timeout=timeouts.POD + timeouts.COMMAND,
        )
