"""External stores: each server is a bare pod, which is not restarted once it is lost."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import yaml
from kr8s.objects import Pod

from fleetlimit.core.quota import SECOND_US
from support import e2e_timeouts as timeouts
from support.e2e_release import Release

PORT: Final = 6379
_COPY = "import glob, shutil; [shutil.copy(each, '/data') for each in glob.glob('/given/*')]"


def values(url: str, **options: object) -> dict[str, object]:
    """Return the values of a release with an external store; `options` go into `externalRedis`."""
    return {
        "replicaCount": 2,
        "valkey": {"enabled": False},
        "keySecret": {"value": "of all experiments"},
        "externalRedis": {"url": url, **options},
    }


class External:
    """Servers in the namespace of a release; an init container with Python copies their files."""

    def __init__(self, release: Release, image: str, python: str) -> None:
        self._release = release
        self._image = image
        self._python = python

    def secret(self, name: str, files: Mapping[str, str]) -> None:
        """Create a Secret."""
        self._apply({"kind": "Secret", "metadata": {"name": name}, "stringData": dict(files)})

    def start(
        self, name: str, count: int, *command: str, files: str = "", port: int = PORT
    ) -> list[str]:
        """Start servers behind a Service, and return their addresses once they listen.

        Args:
            name: Name of the Service; the pods are `name-0` and so on.
            count: Number of servers.
            command: Command of a server; `$(POD_IP)` is its address, and /data is writable.
            files: Secret that the init container copies to /data.
            port: Port of the servers.
        """
        pods = [f"{name}-{number}" for number in range(count)]
        ports = [{"port": port}]
        self._apply(
            {
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"selector": {"app": name}, "ports": ports},
            },
            *(
                {
                    "kind": "Pod",
                    "metadata": {"name": pod, "labels": {"app": name}},
                    "spec": self._spec(command, files, port),
                }
                for pod in pods
            ),
        )
        ready = ("--for=condition=Ready", f"--timeout={timeouts.POD}s")
        self._release.kubectl(
            "wait", *ready, f"--selector=app={name}", "pod", timeout=timeouts.POD + timeouts.COMMAND
        )
        return [self.address(pod) for pod in pods]

    def address(self, pod: str) -> str:
        """Return the IP address of a server's pod."""
        return str(self._found(pod)["status"]["podIP"])

    def run(self, pod: str, *command: str) -> str:
        """Run a command in a server's pod and return what it printed."""
        return self._release.kubectl("exec", pod, "--container=server", "--", *command).strip()

    def logged_us(self, pod: str, text: str) -> list[int]:
        """Return when a server logged lines with this text, in microseconds since the epoch."""
        log = self._release.cluster.get(f"{self._release.pods}/{pod}/log?timestamps=true")
        return [
            round(datetime.fromisoformat(line.split()[0]).timestamp() * SECOND_US)
            for line in log.splitlines()
            if text in line
        ]

    def kill(self, pod: str) -> None:
        """Kill a server like the loss of its node, and delete its pod."""
        found = self._found(pod)
        container = found["status"]["containerStatuses"][0]["containerID"].split("//")[1]
        stop = ("crictl", "stop", "--timeout=0", container)
        self._release.cluster.on_node(found["spec"]["nodeName"], *stop)
        namespace, api = self._release.namespace, self._release.cluster.api
        Pod.get(pod, namespace=namespace, api=api).delete(grace_period=0, force=True)

    def _apply(self, *objects: Mapping[str, object]) -> None:
        made = yaml.safe_dump_all({"apiVersion": "v1", **each} for each in objects)
        self._release.kubectl("apply", "--filename=-", stdin=made)

    def _found(self, pod: str) -> Any:
        return json.loads(self._release.cluster.get(f"{self._release.pods}/{pod}"))

    def _spec(self, command: tuple[str, ...], files: str, port: int) -> dict[str, object]:
        data = {"name": "data", "mountPath": "/data"}
        address = {"fieldRef": {"fieldPath": "status.podIP"}}
        server = {
            "name": "server",
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            "command": [*command],
            "workingDir": "/data",
            "env": [{"name": "POD_IP", "valueFrom": address}],
            "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
            "volumeMounts": [data],
        }
        volumes: list[dict[str, object]] = [{"name": "data", "emptyDir": {}}]
        before: list[dict[str, object]] = []
        if files:
            # A sentinel rewrites its configuration file, and a mounted Secret is read-only.
            volumes.append({"name": "given", "secret": {"secretName": files}})
            before.append(
                {
                    "name": "copy",
                    "image": self._python,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", _COPY],
                    "volumeMounts": [data, {"name": "given", "mountPath": "/given"}],
                }
            )
        return {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "initContainers": before,
            "containers": [server],
            "volumes": volumes,
        }
