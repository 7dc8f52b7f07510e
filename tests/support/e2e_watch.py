"""Observation of all pods of a release: counters once a second, logs into files."""

import json
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.telemetry import names
from fleetlimit.telemetry.names import MetricSpec
from support import e2e_timeouts as timeouts
from support.e2e_release import Release
from support.eventually import eventually

Series = tuple[str, ...]
"""Name of a metric and the values of its labels, ordered by label name."""

_CHECKS = f"{names.CHECK_DURATION.name}_count"
"""Metric of the checks by the source of the decision."""
_WITHOUT_STORE = {Outcome.FAIL_OPEN, Outcome.FAIL_CLOSED}
_UNREACHABLE = (urllib.error.URLError, ConnectionError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Reading:
    """Reading of one pod's counters.

    Args:
        at_us: Time in microseconds since the epoch.
        pod: Name of the pod.
        decisions: Decisions by policy and outcome since the start of the experiment.
    """

    at_us: int
    pod: str
    decisions: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Mark:
    """Event of an experiment, such as a fault.

    Args:
        at_us: Time in microseconds since the epoch.
        what: Name of the event.
        begins: Whether a phase of the experiment begins, of the same name.
    """

    at_us: int
    what: str
    begins: bool = False


class Watch:
    """Observer of all pods during an experiment, new and terminating ones included.

    Args:
        release: Release of the pods.
        folder: Folder of the experiment, for the logs of the pods.
        without_store: Whether the pods cannot reach any store.
    """

    def __init__(self, release: Release, folder: Path, *, without_store: bool = False) -> None:
        self.folder = folder
        self.readings: list[Reading] = []
        self.marks: list[Mark] = []
        self.audited = 0
        self._at_begin: Counter[str] = Counter()
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
        self._reader = threading.Thread(target=self._poll, daemon=True)
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        # Terminating pods of an earlier experiment would be counted as new ones.
        eventually(
            lambda: not any(map(_is_terminating, self._all_pods())),
            within=timeouts.POD,
            what="no pod terminates",
        )
        # A pod that started before its store connects one probe later than the other pods.
        expected = {float(self._without_store)}
        eventually(
            lambda: self.breaker_states() == expected,
            within=timeouts.POD,
            what="every pod knows whether its store is reachable",
        )
        for pod in self.pods():
            name = pod["metadata"]["name"]
            self._first[name] = self.scrape(name)
            # Only lines of this experiment; the log of a later pod is read from its start.
            self._follow(name, "&tailLines=0")
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._reader.join()

    def pods(self) -> list[Any]:
        """Return the pods that are not terminating."""
        return [pod for pod in self._all_pods() if not _is_terminating(pod)]

    def ready(self) -> list[str]:
        """Return the names of the ready pods."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if any(
                each["type"] == "Ready" and each["status"] == "True"
                for each in pod["status"].get("conditions", ())
            )
        ]

    def until_replaced(self, pods: Iterable[str], by: str) -> None:
        """Wait until as many other pods are ready, and none of these.

        Args:
            pods: Names of the pods.
            by: What replaces them, for the error message.

        Raises:
            AssertionError: They were not replaced in time.
        """
        before = {*pods}

        def replaced() -> bool:
            ready = self.ready()
            return len(ready) == len(before) and before.isdisjoint(ready)

        eventually(replaced, within=timeouts.HELM, what=f"the {by} replaces every pod")

    def breaker_states(self) -> set[float]:
        """Return the states of the circuit breakers of the ready pods: 1 (open), 0, or both."""
        return {self.scrape(pod)[(names.BREAKER_OPEN.name,)] for pod in self.ready()}

    def scrape(self, pod: str, *, within: float = timeouts.COMMAND) -> dict[Series, float]:
        """Return the current metrics of a pod."""
        text = self._cluster.get(f"{self._pods}/{pod}:9090/proxy/metrics", within=within)
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def mark(self, what: str) -> int:
        """Record an event, and return the current time in microseconds since the epoch."""
        return self._add(what)

    def begin(self, what: str) -> int:
        """Begin a phase, and return the current time in microseconds since the epoch.

        The phase before the first one begins with the load.
        """
        self.read_counters()
        self._at_begin = self._decided_by_policy()
        return self._add(what, begins=True)

    @property
    def began_us(self) -> int:
        """Start of the current phase, in microseconds since the epoch; 0 before the first one."""
        return max((each.at_us for each in self.marks if each.begins), default=0)

    def read_counters(self) -> None:
        """Read the counters of all pods once, and follow the logs of new pods."""
        pods = [pod["metadata"]["name"] for pod in self._all_pods()]
        # In parallel: a pod that has just stopped responds late, and the counters of another
        # terminating pod can be read only for the few seconds until it stops.
        with ThreadPoolExecutor(max_workers=len(pods) or 1) as readers:
            list(readers.map(self._read_pod, pods))

    def decisions(self) -> Mapping[str, Counter[tuple[str, str]]]:
        """Return the decisions of each pod by policy and outcome since the start.

        For a pod that is gone these are the last values read.
        """
        return {pod: self._decisions(pod) for pod in list(self._last)}

    def decided(self, policy: str, outcome: str) -> int:
        """Return the number of such decisions of all pods since the start."""
        return sum(each[policy, outcome] for each in self.decisions().values())

    def decided_in_phase(self, policy: str) -> int:
        """Return the number of all decisions of a policy since the current phase began."""
        return self._decided_by_policy()[policy] - self._at_begin[policy]

    def counted(self, counter: MetricSpec) -> Mapping[str, Counter[Series]]:
        """Return the increase of a counter since the start, by pod and values of its labels."""
        return {pod: self._counted(pod, counter.name) for pod in list(self._last)}

    def expect_no_store_errors(self) -> None:
        """Expect that the store decided every check, and refused no other call.

        A report or a probe may time out while a busy machine starts the pods of the load.

        Raises:
            AssertionError: A pod decided without the store, or a call failed for another reason.
        """
        assert not self.decided_locally()
        decided = sum(self.decisions().values(), start=Counter[tuple[str, str]]())
        assert {outcome for _, outcome in decided}.isdisjoint(_WITHOUT_STORE), decided
        errors = sum(self.counted(names.STORE_ERRORS).values(), start=Counter[Series]())
        assert set(errors) <= {("timeout",)}, errors

    def checks_by_source(self) -> Counter[str]:
        """Return the checks of all pods since the start, by the source of the decision."""
        found: Counter[str] = Counter()
        for pod in list(self._last):
            for (source,), count in self._counted(pod, _CHECKS).items():
                found[source] += count
        return found

    def decided_locally(self) -> int:
        """Return the number of checks that pods decided without the store since the start."""
        return self.checks_by_source()[Source.LOCAL]

    def logged(self, pod: str = "") -> Counter[str]:
        """Return the rejections by policy in the log of a pod, or in all logs, since the start."""
        found = [lines for name, lines in self._lines.items() if pod in {"", name}]
        return sum(found, start=Counter[str]())

    def events(self, event: str) -> Counter[str]:
        """Return the number of log lines of this event since the start, by pod."""
        return Counter({pod: lines[event] for pod, lines in self._events.items()})

    def last_seen_us(self, pod: str) -> int:
        """Return the time of the last reading of a pod, in microseconds since the epoch."""
        return max((each.at_us for each in self.readings if each.pod == pod), default=0)

    def _decided_by_policy(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for decided in self.decisions().values():
            for (policy, _), count in decided.items():
                found[policy] += count
        return found

    def _add(self, what: str, *, begins: bool = False) -> int:
        self.marks.append(Mark(time.time_ns() // 1000, what, begins))
        return self.marks[-1].at_us

    def _decisions(self, pod: str) -> Counter[tuple[str, str]]:
        counts = self._counted(pod, names.DECISIONS.name)
        # Labels are ordered by name.
        return Counter({(policy, outcome): count for (outcome, policy), count in counts.items()})

    def _counted(self, pod: str, metric: str) -> Counter[Series]:
        first = self._first.get(pod, {})
        return Counter(
            {
                series[1:]: int(value - first.get(series, 0))
                for series, value in self._last[pod].items()
                if series[0] == metric
            }
        )

    def _all_pods(self) -> list[Any]:
        items: list[Any] = json.loads(self._cluster.get(self._replicas))["items"]
        return items

    def _poll(self) -> None:
        while not self._done.wait(1):
            with suppress(*_UNREACHABLE):
                self.read_counters()

    def _read_pod(self, pod: str) -> None:
        with suppress(*_UNREACHABLE):
            at_us = time.time_ns() // 1000
            self._last[pod] = self.scrape(pod, within=timeouts.SCRAPE)
            self.readings.append(Reading(at_us, pod, self._decisions(pod)))
            reported = (
                round(value)
                for series, value in self._last[pod].items()
                if series[0] == names.AUDIT_OVERSHOOT.name
            )
            self.audited = max(self.audited, *reported, 0)
            self._follow(pod, "")

    def _follow(self, pod: str, since: str) -> None:
        if pod not in self._followed:
            self._followed.add(pod)
            self._lines[pod], self._events[pod] = Counter(), Counter()
            threading.Thread(target=self._read, args=(pod, since), daemon=True).start()

    def _read(self, pod: str, since: str) -> None:
        path = f"{self._pods}/{pod}/log?follow=true{since}"
        with (
            suppress(*_UNREACHABLE),
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
            written = json.loads(line)
        except ValueError:
            return
        event = written.get("event")
        self._events[pod][str(event)] += 1
        if event == names.LOG_DENIED:
            self._lines[pod][written["policy"]] += 1
        elif event == names.LOG_DENIED + names.SUPPRESSED:
            self._lines[pod][written["policy"]] += written["suppressed"]


def _is_terminating(pod: Any) -> bool:
    return "deletionTimestamp" in pod["metadata"]
