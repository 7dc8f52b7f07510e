"""Bundled store of a release, and faults to inject into it."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from kr8s.objects import Pod, StatefulSet

from support import e2e_timeouts as timeouts
from support.e2e_process import Process
from support.e2e_release import Release
from support.eventually import eventually


class Store:
    """Valkey pod of a release."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._cluster = release.cluster
        self._pod = f"{release.valkey}-0"

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Kill the server and keep it down; at the end wait until a new one is ready."""
        try:
            self._kill()
            yield
        finally:
            self._scale(1)
            eventually(self._ready, within=timeouts.POD, what="the store is back")

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Drop every packet from and to the pod, so that connections hang.

        The pod stays ready, because its probes do not use the network.
        """
        found, on_node = self._find()
        with ExitStack() as undo:
            for side in ("--source", "--destination"):
                rule = ("FORWARD", side, found["status"]["podIP"], "--jump", "DROP")
                on_node("iptables", "--wait", "--insert", *rule)
                undo.callback(on_node, "iptables", "--wait", "--delete", *rule)
            yield

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Delay every packet to the pod.

        Raises:
            AssertionError: The kernel does not support it; the message has its error.
        """
        found, on_node = self._find()
        route = on_node("ip", "route", "get", found["status"]["podIP"]).split()
        device = route[route.index("dev") + 1]
        netem = ("netem", "delay", f"{seconds * 1000:g}ms")
        on_node("tc", "qdisc", "add", "dev", device, "root", *netem)
        try:
            yield
        finally:
            on_node("tc", "qdisc", "delete", "dev", device, "root")

    def pause(self, seconds: float) -> None:
        """Pause the server for some time from now on. Connections stay open."""
        self._release.kubectl(
            *("exec", self._pod, "--container=valkey", "--"),
            *("valkey-cli", "-e", "client", "pause", str(round(seconds * 1000)), "all"),
        )

    def _find(self) -> tuple[Any, Callable[..., str]]:
        """Return the pod and a function that runs a command on its node."""
        found = json.loads(self._cluster.get(f"{self._release.pods}/{self._pod}"))
        return found, partial(self._cluster.on_node, found["spec"]["nodeName"])

    def _kill(self) -> None:
        process = Process(self._cluster, f"{self._release.pods}/{self._pod}", "valkey")
        pod = Pod.get(self._pod, namespace=self._release.namespace, api=self._cluster.api)
        # A frozen server cannot save its state on SIGTERM.
        process.signal("STOP")
        try:
            self._scale(0)
            pod.delete(grace_period=0, force=True)
        finally:
            process.signal("KILL")
        eventually(lambda: not pod.exists(), within=timeouts.POD, what="the store is deleted")

    def _ready(self) -> bool:
        folder = f"/apis/apps/v1/namespaces/{self._release.namespace}/statefulsets"
        found = json.loads(self._cluster.get(f"{folder}/{self._release.valkey}"))
        return bool(found["status"].get("readyReplicas"))

    def _scale(self, replicas: int) -> None:
        store = StatefulSet.get(
            self._release.valkey, namespace=self._release.namespace, api=self._cluster.api
        )
        store.patch({"spec": {"replicas": replicas}})
