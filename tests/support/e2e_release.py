"""Release of the chart in a namespace: install, upgrade, uninstall."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from kr8s.objects import Namespace

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster
from support.tool import ROOT

CHART: Final = ROOT / "charts/fleetlimit"
NAME: Final = "fleetlimit"


class Release:
    """Release of the chart; files with values for Helm are written to a folder."""

    name = NAME

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._folder = folder

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
        return self.cluster.helm(command, self.name, f"--namespace={self.namespace}", *arguments)

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
        for number, each in enumerate(values):
            file = self._folder / f"{self.namespace}-{number}.yaml"
            file.write_text(yaml.safe_dump(dict(each)))
            files.append(f"--values={file}")
        timeout = f"--timeout={within}s"
        self.helm("upgrade", str(CHART), "--install", *files, "--wait", timeout)

    def uninstall(self) -> None:
        """Delete the release and its namespace, and wait until both are gone."""
        self.helm("uninstall", "--wait", "--ignore-not-found")
        Namespace(self.namespace, api=self.cluster.api).delete()
        self.kubectl(
            "wait",
            "--for=delete",
            f"namespace/{self.namespace}",
            f"--timeout={timeouts.POD}s",
            timeout=timeouts.POD + timeouts.COMMAND,
        )
