"""Kind cluster with the images: create it or use a running one, and delete it."""

import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import kr8s
from kr8s._async_utils import as_sync_func

from support import e2e_timeouts as timeouts
from support.helm import HELM
from support.tool import ROOT, run

CONFIG = ROOT / "deploy/kind/cluster.yaml"


def images() -> dict[str, str]:
    """Return the images and versions of `deploy/kind/images.env`, overridden by the environment."""
    return {name: os.environ.get(name, value) for name, value in _defaults().items()}


def _defaults() -> dict[str, str]:
    lines = (ROOT / "deploy/kind/images.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def loaded(names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the images that the nodes need, from the result of `images`."""
    kinds = (
        *("FLEETLIMIT", "EXAMPLE", "VALKEY", "REDIS", "REDIS_EXPORTER", "METRICS_SERVER"),
        *("PROMETHEUS_OPERATOR", "PROMETHEUS_CONFIG_RELOADER", "PROMETHEUS", "JAEGER"),
    )
    return tuple(names[f"{kind}_IMAGE"] for kind in kinds)


class Cluster:
    """A running kind cluster; its kubeconfig is written to a file."""

    def __init__(self, name: str, kubeconfig: Path) -> None:
        self.name = name
        self.kubeconfig = kubeconfig
        config = run("kind", "get", "kubeconfig", "--name", name, timeout=timeouts.COMMAND)
        kubeconfig.write_text(config)
        kubeconfig.chmod(0o600)
        self.api = kr8s.api(kubeconfig=str(kubeconfig))
        self._proxy = subprocess.Popen(
            self.kubectl_command("proxy", "--port=0"), stdout=subprocess.PIPE, text=True
        )
        assert self._proxy.stdout is not None
        # Starting to serve on 127.0.0.1:40123
        self._base = f"http://{self._proxy.stdout.readline().split()[-1]}"

    def kubectl(
        self, *arguments: str, timeout: float = timeouts.COMMAND, stdin: str | None = None
    ) -> str:
        """Run kubectl on the cluster."""
        return run(*self.kubectl_command(*arguments), timeout=timeout, stdin=stdin)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """Return the command that `kubectl` runs."""
        return ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]

    def helm(self, *arguments: str, binary: str = HELM) -> str:
        """Run Helm on the cluster."""
        within = timeouts.HELM + timeouts.COMMAND
        return run(binary, f"--kubeconfig={self.kubeconfig}", *arguments, timeout=within)

    def apply(self, manifest: Path) -> None:
        """Apply a manifest, with `images` in place of those of `deploy/kind/images.env`."""
        text = manifest.read_text()
        chosen = images()
        for name, default in _defaults().items():
            if name.endswith("_IMAGE") and chosen[name] != default:
                text = text.replace(default, chosen[name])
                # The Operator reads the version of Prometheus from the manifest, not the image.
                named, due = (each.rpartition(":")[2] for each in (default, chosen[name]))
                text = text.replace(f"version: {named}", f"version: {due}")
        self.kubectl("apply", "--filename=-", stdin=text)

    def install_crds(self, source: str) -> None:
        """Install or replace CRDs from a file, folder or URL, and wait until they are served."""
        apply = ("apply", "--server-side", "--force-conflicts", "--output=name")
        made = self.kubectl(*apply, f"--filename={source}").split()
        self.kubectl("wait", "--for=condition=Established", *made)

    def on_node(self, node: str, *command: str) -> str:
        """Run a command in the container of a node."""
        return run("docker", "exec", node, *command, timeout=timeouts.COMMAND)

    def close(self) -> None:
        """Close the connections. The cluster keeps running."""
        if self.api._session is not None:
            # kr8s has no public method that closes its connections.
            as_sync_func(self.api._session.aclose)()
        self._proxy.terminate()
        self._proxy.communicate()

    def get(self, path: str, *, within: float = timeouts.COMMAND) -> str:
        """Return the response of the API server for a path."""
        return "".join(self._lines(path, within))

    def stream(self, path: str) -> Iterator[str]:
        """Yield the lines of a streamed response, which ends with the pod."""
        return self._lines(path, None)

    def _lines(self, path: str, within: float | None) -> Iterator[str]:
        url = f"{self._base}{path}"
        with urllib.request.urlopen(url, timeout=within) as answer:  # noqa: S310 - loopback
            for line in answer:
                yield line.decode()

    def dump(self, folder: Path) -> None:
        """Write all pods, their logs and the events of all namespaces into a folder."""
        where = f"--output-directory={folder}"
        self.kubectl("cluster-info", "dump", "--all-namespaces", where, timeout=timeouts.CLUSTER)

    def load_images(self, *names: str) -> None:
        """Copy images from Docker to all nodes."""
        run("kind", "load", "docker-image", *names, "--name", self.name, timeout=timeouts.CLUSTER)


def create(name: str, image: str, kubeconfig: Path) -> None:
    """Create a cluster. kind writes its kubeconfig; the user's own stays unchanged."""
    run(
        "kind",
        "create",
        "cluster",
        f"--name={name}",
        f"--image={image}",
        f"--config={CONFIG}",
        f"--kubeconfig={kubeconfig}",
        timeout=timeouts.CLUSTER,
    )


def delete(name: str, kubeconfig: Path) -> None:
    """Delete a cluster and its entry in the kubeconfig of `create`."""
    run(
        "kind",
        "delete",
        "cluster",
        f"--name={name}",
        f"--kubeconfig={kubeconfig}",
        timeout=timeouts.CLUSTER,
    )


def build(names: Mapping[str, str]) -> None:
    """Build the images of Fleetlimit and of the example, and pull other missing images."""
    options = names["DOCKER_BUILD_OPTIONS"].split()
    for image, of, folder in (
        ("FLEETLIMIT_IMAGE", ("BASE_IMAGE", "BUILD_IMAGE"), "."),
        ("EXAMPLE_IMAGE", ("FLEETLIMIT_IMAGE",), "deploy/examples/orders"),
    ):
        arguments = [f"--build-arg={each}={names[each]}" for each in of]
        command = ("docker", "build", *options, *arguments, f"--tag={names[image]}", folder)
        run(*command, timeout=timeouts.BUILD)
    for image in loaded(names):
        if not run("docker", "images", "--quiet", image, timeout=timeouts.COMMAND):
            run("docker", "pull", image, timeout=timeouts.BUILD)
