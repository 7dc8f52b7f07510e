"""Follows all of a release's pods: their counters each second, and their logs into files."""

import json
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from fleetlimit.telemetry import names
from fleetlimit.telemetry.names import MetricSpec
from support import e2e_timeouts as timeouts
from support.e2e_eventually import eventually
from support.e2e_release import Release

Series = tuple[str, ...]
"""A metric's name and the values of its labels, in the order of their names."""

_AWAY = (urllib.error.URLError, ConnectionError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Look:
    """What one pod had counted at one time.

    Args:
        at_us: When, in microseconds since the epoch.
        pod: Its name.
        decisions: How often a policy decided what, since the start of the experiment.
    """

    at_us: int
    pod: str
    decisions: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done to the cluster.

    Args:
        at_us: When, in microseconds since the epoch.
        what: What, in a few words.
    """

    at_us: int
    what: str


class Watch:
    """Observes the pods while an experiment goes on, those that come and go included.

    Args:
        release: Whose pods.
        folder: Folder of the experiment, for the pods' logs.
        without_store: Whether the pods cannot reach any store.
    """

    def __init__(self, release: Release, folder: Path, *, without_store: bool = False) -> None:
        self.folder = folder
        self.looks: list[Look] = []
        self.marks: list[Mark] = []
        self.audited = 0
        self._cluster = release.cluster
        self._pods = release.pods
        self._replicas = f"{release.pods}?labelSelector={release.selector}"
        self._first: dict[str, dict[Series, float]] = {}
        self._last: dict[str, dict[Series, float]] = {}
        self._lines: dict[str, Counter[str]] = {}
        self._events: dict[str, Counter[str]] = {}
        self._followed: set[str] = set()
        self._without_store = without_store
        self._done = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        # Those that an earlier experiment let go would be taken for new ones.
        eventually(lambda: not self._leaving(), within=timeouts.POD, what="no pod is leaving")
        # A pod that came before its store finds it a probe later than everybody else.
        away = {float(self._without_store)}
        eventually(lambda: self.away() == away, within=timeouts.POD, what="all know of the store")
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
        items: list[Any] = json.loads(self._cluster.get(self._replicas))["items"]
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

    def away(self) -> set[float]:
        """Return whether the store is away, as the pods that are ready see it: 1, 0 or both."""
        return {self.scrape(pod)[(names.BREAKER_OPEN.name,)] for pod in self.ready()}

    def scrape(self, pod: str, *, within: float = timeouts.COMMAND) -> dict[Series, float]:
        """Return a pod's metrics now."""
        text = self._cluster.get(f"{self._pods}/{pod}:9090/proxy/metrics", within=within)
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def mark(self, what: str) -> int:
        """Note that something is done to the cluster now.

        Args:
            what: What, in a few words.

        Returns:
            Now, in microseconds since the epoch.
        """
        self.marks.append(Mark(time.time_ns() // 1000, what))
        return self.marks[-1].at_us

    def look(self) -> None:
        """Read all pods' counters once, and follow the logs of new ones."""
        items = json.loads(self._cluster.get(self._replicas))["items"]
        pods = [pod["metadata"]["name"] for pod in items]
        # One that has just gone answers late, and must not keep the others waiting: what a pod
        # counts is there to be seen only until it stops, seconds after its last request.
        with ThreadPoolExecutor(max_workers=len(pods) or 1) as readers:
            list(readers.map(self._read_counters, pods))

    def decisions(self) -> Mapping[str, Counter[tuple[str, str]]]:
        """Return for each pod how often a policy decided what since the start.

        Of a pod that went, it is what was seen last.
        """
        return {pod: self._decisions(pod) for pod in list(self._last)}

    def decided(self, policy: str, outcome: str) -> int:
        """Return how often all pods together decided so since the start."""
        return sum(each[policy, outcome] for each in self.decisions().values())

    def counted(self, counter: MetricSpec) -> Mapping[str, Counter[Series]]:
        """Return for each pod how far a counter rose since the start, by its labels' values."""
        return {pod: self._counted(pod, counter) for pod in list(self._last)}

    def logged(self, pod: str = "") -> Counter[str]:
        """Return for each policy the refusals in a pod's log since the start, or in all logs."""
        found = [lines for name, lines in self._lines.items() if pod in {"", name}]
        return sum(found, start=Counter[str]())

    def events(self, event: str) -> Counter[str]:
        """Return for each pod how often a line of this event was written since the start."""
        return Counter({pod: lines[event] for pod, lines in self._events.items()})

    def last_seen_us(self, pod: str) -> int:
        """Return when a pod's counters were seen last, in microseconds since the epoch."""
        return max((each.at_us for each in self.looks if each.pod == pod), default=0)

    def _decisions(self, pod: str) -> Counter[tuple[str, str]]:
        counts = self._counted(pod, names.DECISIONS)
        # Labels are in the order of their names.
        return Counter({(policy, outcome): count for (outcome, policy), count in counts.items()})

    def _counted(self, pod: str, counter: MetricSpec) -> Counter[Series]:
        first = self._first.get(pod, {})
        return Counter(
            {
                series[1:]: int(value - first.get(series, 0))
                for series, value in self._last[pod].items()
                if series[0] == counter.name
            }
        )

    def _leaving(self) -> list[Any]:
        items = json.loads(self._cluster.get(self._replicas))["items"]
        return [pod for pod in items if "deletionTimestamp" in pod["metadata"]]

    def _look(self) -> None:
        while not self._done.wait(1):
            with suppress(*_AWAY):
                self.look()

    def _read_counters(self, pod: str) -> None:
        with suppress(*_AWAY):
            at_us = time.time_ns() // 1000
            self._last[pod] = self.scrape(pod, within=timeouts.SCRAPE)
            self.looks.append(Look(at_us, pod, self._decisions(pod)))
            told = (
                round(value)
                for series, value in self._last[pod].items()
                if series[0] == names.AUDIT_OVERSHOOT.name
            )
            self.audited = max(self.audited, *told, 0)
            self._follow(pod, "")

    def _follow(self, pod: str, since: str) -> None:
        if pod not in self._followed:
            self._followed.add(pod)
            self._lines[pod], self._events[pod] = Counter(), Counter()
            threading.Thread(target=self._read, args=(pod, since), daemon=True).start()

    def _read(self, pod: str, since: str) -> None:
        path = f"{self._pods}/{pod}/log?follow=true{since}"
        with (
            suppress(*_AWAY),
            (self.folder / f"{pod}.log").open("a") as file,
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
