"""Follows all of a release's pods: their counters each second, and their logs into files."""

import json
import threading
import urllib.error
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from headgate.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_cluster import NAMESPACE, RELEASE, Cluster
from support.e2e_eventually import eventually

Series = tuple[str, ...]
"""A metric's name and the values of its labels, in the order of their names."""

_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_REPLICAS = (
    f"{_PODS}?labelSelector=app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=api"
)
_AWAY = (urllib.error.URLError, ConnectionError, TimeoutError)


class Watch:
    """Observes the pods while an experiment goes on, those that come and go included.

    Args:
        cluster: Where.
        logs: Folder for the pods' logs.
    """

    def __init__(self, cluster: Cluster, logs: Path) -> None:
        self._cluster = cluster
        self._logs = logs
        self._first: dict[str, dict[Series, float]] = {}
        self._last: dict[str, dict[Series, float]] = {}
        self._lines: dict[str, Counter[str]] = {}
        self._events: dict[str, Counter[str]] = {}
        self._followed: set[str] = set()
        self._done = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        # Those that an earlier experiment let go would be taken for new ones.
        eventually(lambda: not self._leaving(), within=timeouts.POD, what="no pod is leaving")
        for pod in self.pods():
            name = pod["metadata"]["name"]
            self._first[name] = self.scrape(name)
            # Only what the experiment adds; of pods that come later, everything.
            self._follow(name, "&tailLines=0")
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._looking.join()

    def pods(self) -> list[Any]:
        """Return the pods that are there and not about to go."""
        items: list[Any] = json.loads(self._cluster.get(_REPLICAS))["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def ready(self) -> list[str]:
        """Return the names of the pods that are ready."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if any(
                each["type"] == "Ready" and each["status"] == "True"
                for each in pod["status"].get("conditions", ())
            )
        ]

    def scrape(self, pod: str, *, within: float = timeouts.COMMAND) -> dict[Series, float]:
        """Return a pod's metrics now."""
        text = self._cluster.get(f"{_PODS}/{pod}:9090/proxy/metrics", within=within)
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def look(self) -> None:
        """Read all pods' counters once, and follow the logs of new ones."""
        items = json.loads(self._cluster.get(_REPLICAS))["items"]
        pods = [pod["metadata"]["name"] for pod in items]
        # One that has just gone answers late, and must not keep the others waiting: what a pod
        # counts is there to be seen only until it stops, seconds after its last request.
        with ThreadPoolExecutor(max_workers=len(pods) or 1) as readers:
            list(readers.map(self._read_counters, pods))

    def decisions(self) -> Mapping[str, Counter[tuple[str, str]]]:
        """Return for each pod how often a policy decided what since the start.

        Of a pod that went, it is what was seen last.
        """
        return {
            pod: Counter(
                {
                    # Labels are in the order of their names: outcome, policy.
                    (policy, outcome): int(value - self._first.get(pod, {}).get(series, 0))
                    for series, value in found.items()
                    for outcome, policy in [series[1:]]
                }
            )
            for pod, found in (
                (pod, {key: value for key, value in seen.items() if key[0] == names.DECISIONS.name})
                for pod, seen in self._last.items()
            )
        }

    def decided(self, policy: str, outcome: str) -> int:
        """Return how often all pods together decided so since the start."""
        return sum(each[policy, outcome] for each in self.decisions().values())

    def logged(self, pod: str = "") -> Counter[str]:
        """Return for each policy the refusals in a pod's log since the start, or in all logs."""
        found = [lines for name, lines in self._lines.items() if pod in {"", name}]
        return sum(found, start=Counter[str]())

    def events(self, event: str) -> Counter[str]:
        """Return for each pod how often a line of this event was written since the start."""
        return Counter({pod: lines[event] for pod, lines in self._events.items()})

    def _leaving(self) -> list[Any]:
        items = json.loads(self._cluster.get(_REPLICAS))["items"]
        return [pod for pod in items if "deletionTimestamp" in pod["metadata"]]

    def _look(self) -> None:
        while not self._done.wait(1):
            with suppress(*_AWAY):
                self.look()

    def _read_counters(self, pod: str) -> None:
        with suppress(*_AWAY):
            self._last[pod] = self.scrape(pod, within=timeouts.SCRAPE)
            self._follow(pod, "")

    def _follow(self, pod: str, since: str) -> None:
        if pod not in self._followed:
            self._followed.add(pod)
            self._lines[pod], self._events[pod] = Counter(), Counter()
            threading.Thread(target=self._read, args=(pod, since), daemon=True).start()

    def _read(self, pod: str, since: str) -> None:
        path = f"{_PODS}/{pod}/log?follow=true{since}"
        with (
            suppress(*_AWAY),
            (self._logs / f"{pod}.log").open("a") as file,
        ):
            for line in self._cluster.stream(path):
                if self._done.is_set():
                    break
                file.write(line)
                file.flush()
                self._note(pod, line)

    def _note(self, pod: str, line: str) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return
        event = told.get("event")
        self._events[pod][str(event)] += 1
        if event == names.LOG_DENIED:
            self._lines[pod][told["policy"]] += 1
        elif event == names.LOG_DENIED + names.SUPPRESSED:
            self._lines[pod][told["policy"]] += told["suppressed"]
