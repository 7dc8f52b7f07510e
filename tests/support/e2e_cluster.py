"""A kind cluster with the images and the chart: made, taken over, deleted."""

import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import kr8s
import yaml
from kr8s._async_utils import as_sync_func

from support import e2e_timeouts as timeouts

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy/kind/cluster.yaml"
NAMESPACE = "default"
RELEASE = "headgate"


def images() -> dict[str, str]:
    """Return the images and versions of `deploy/kind/images.env`, the environment going before."""
    lines = (ROOT / "deploy/kind/images.env").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: os.environ.get(name, value) for name, value in pairs}


def run(*command: str, timeout: float = timeouts.COMMAND, stdin: str | None = None) -> str:
    """Run a command and return what it printed.

    Raises:
        AssertionError: It failed; the message has what it said.
    """
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        said = (done.stderr + done.stdout)[-4000:]
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout


class Cluster:
    """A kind cluster that runs already.

    Args:
        name: Its name, as kind knows it.
        kubeconfig: Where to write how to reach it.
    """

    def __init__(self, name: str, kubeconfig: Path) -> None:
        self.name = name
        self.kubeconfig = kubeconfig
        kubeconfig.write_text(run("kind", "get", "kubeconfig", "--name", name))
        kubeconfig.chmod(0o600)
        self.api = kr8s.api(kubeconfig=str(kubeconfig), namespace=NAMESPACE)
        self._proxy = subprocess.Popen(
            self.kubectl_command("proxy", "--port=0"), stdout=subprocess.PIPE, text=True
        )
        assert self._proxy.stdout is not None
        # Starting to serve on 127.0.0.1:40123
        self._base = f"http://{self._proxy.stdout.readline().split()[-1]}"

    def kubectl(self, *arguments: str, timeout: float = timeouts.COMMAND) -> str:
        """Run kubectl in the suite's namespace."""
        return run(*self.kubectl_command(*arguments), timeout=timeout)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """Return the command that `kubectl` runs."""
        return ["kubectl", f"--kubeconfig={self.kubeconfig}", f"-n={NAMESPACE}", *arguments]

    def close(self) -> None:
        """Let go of the cluster, which runs on."""
        if self.api._session is not None:
            # The client offers no way to close its connections.
            as_sync_func(self.api._session.aclose)()
        self._proxy.terminate()
        self._proxy.communicate()

    def get(self, path: str, *, within: float = timeouts.COMMAND) -> str:
        """Return what the API server answers to a path."""
        return "".join(self._lines(path, within))

    def stream(self, path: str) -> Iterator[str]:
        """Yield the lines of an answer that goes on until the pod ends."""
        return self._lines(path, None)

    def _lines(self, path: str, within: float | None) -> Iterator[str]:
        url = f"{self._base}{path}"
        with urllib.request.urlopen(url, timeout=within) as answer:  # noqa: S310 - loopback
            for line in answer:
                yield line.decode()

    def load_images(self, *names: str) -> None:
        """Copy images from Docker to all nodes."""
        run("kind", "load", "docker-image", *names, "--name", self.name, timeout=timeouts.CLUSTER)

    def install(self, *values: Mapping[str, object]) -> None:
        """Install the chart, or upgrade it, and wait until all pods are ready.

        Args:
            values: Values, the later ones going before.
        """
        files = []
        for number, each in enumerate(values):
            file = self.kubeconfig.parent / f"values-{number}.yaml"
            file.write_text(yaml.safe_dump(dict(each)))
            files.append(f"--values={file}")
        run(
            "helm",
            f"--kubeconfig={self.kubeconfig}",
            "upgrade",
            "--install",
            RELEASE,
            str(ROOT / "charts/headgate"),
            f"--namespace={NAMESPACE}",
            *files,
            "--wait",
            f"--timeout={timeouts.HELM}s",
            timeout=timeouts.HELM + timeouts.COMMAND,
        )


def create(name: str, image: str, kubeconfig: Path) -> None:
    """Create a cluster.

    Args:
        name: Its name.
        image: Image of its nodes.
        kubeconfig: Where kind writes how to reach it, the user's own staying as it is.
    """
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
    """Delete a cluster, and its entry where `create` wrote it."""
    run(
        "kind",
        "delete",
        "cluster",
        f"--name={name}",
        f"--kubeconfig={kubeconfig}",
        timeout=timeouts.CLUSTER,
    )


def build(names: Mapping[str, str]) -> None:
    """Build Headgate's image, and pull the others that are missing.

    Args:
        names: What `images` returns.
    """
    run(
        "docker",
        "build",
        *names["DOCKER_BUILD_OPTIONS"].split(),
        f"--build-arg=BASE_IMAGE={names['BASE_IMAGE']}",
        f"--tag={names['HEADGATE_IMAGE']}",
        ".",
        timeout=timeouts.BUILD,
    )
    if not run("docker", "images", "--quiet", names["VALKEY_IMAGE"]):
        run("docker", "pull", names["VALKEY_IMAGE"], timeout=timeouts.BUILD)
