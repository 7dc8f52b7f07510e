"""Load generator in a pod of the cluster, and the results of its requests."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from kr8s.objects import ConfigMap, Pod

from support import e2e_timeouts as timeouts
from support.e2e_release import Release
from support.eventually import eventually
from support.tool import ROOT

_OK, _TOO_MANY, _SERVER_ERROR = 200, 429, 500


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one caller to one route, at a steady rate.

    Args:
        policy: Policy that applies to the route.
        caller: Name of the caller in the report.
        method: HTTP method.
        path: Path of the URL.
        per_second: Requests per second.
        headers: Request headers; `{random}` in a value is a new text in each request.
        forge: `kid` and `claims` of a token that the sender forges for each request.
    """

    policy: str
    caller: str
    method: str
    path: str
    per_second: float
    headers: Mapping[str, str] = field(default_factory=dict)
    forge: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """Result of one request.

    Args:
        stream: Stream of the request.
        sent_us: Time of sending, in microseconds since the epoch.
        duration_us: Microseconds until the response or the failure.
        status: HTTP status; 0 without a response.
        fault: `refused`, `broken` or `timeout` without a response, else empty.
    """

    stream: Stream
    sent_us: int
    duration_us: int
    status: int
    fault: str

    @property
    def done_us(self) -> int:
        """Time of the response or failure, in microseconds since the epoch."""
        return self.sent_us + self.duration_us


@dataclass(frozen=True, slots=True)
class Answers:
    """Results of a load, in order of time."""

    requests: tuple[Request, ...]

    def __add__(self, others: "Answers") -> "Answers":
        both = (*self.requests, *others.requests)
        return Answers(tuple(sorted(both, key=lambda each: each.sent_us)))

    def of(self, *, policy: str = "", caller: str = "") -> "Answers":
        """Return the requests of a policy, of a caller, or of both."""
        return Answers(
            tuple(
                each
                for each in self.requests
                if policy in {"", each.stream.policy} and caller in {"", each.stream.caller}
            )
        )

    def between(self, start_us: int, end_us: int) -> "Answers":
        """Return the requests sent within a time range."""
        return Answers(tuple(each for each in self.requests if start_us <= each.sent_us < end_us))

    @property
    def start_us(self) -> int:
        """Time when the first request was sent, in microseconds since the epoch."""
        return min(each.sent_us for each in self.requests)

    @property
    def end_us(self) -> int:
        """Time when the last request ended, in microseconds since the epoch."""
        return max(each.done_us for each in self.requests)

    @property
    def statuses(self) -> Counter[int]:
        """Number of requests by status; 0 stands for no response."""
        return Counter(each.status for each in self.requests)

    @property
    def admitted(self) -> int:
        """Number of admitted requests."""
        return self.statuses[_OK]

    @property
    def admitted_spans(self) -> list[tuple[int, int]]:
        """Times of sending and of the response of each admitted request."""
        return [(each.sent_us, each.done_us) for each in self.requests if each.status == _OK]

    @property
    def denied(self) -> int:
        """Number of requests rejected with 429."""
        return self.statuses[_TOO_MANY]

    @property
    def server_errors(self) -> tuple[Request, ...]:
        """Requests with a 5xx response."""
        return tuple(each for each in self.requests if each.status >= _SERVER_ERROR)

    @property
    def faults(self) -> tuple[Request, ...]:
        """Requests without a response."""
        return tuple(each for each in self.requests if each.fault)

    def slowest_ms(self, share: float = 1.0) -> float:
        """Return a quantile of the response time, in milliseconds."""
        durations = sorted(each.duration_us for each in self.requests if not each.fault)
        last = len(durations) - 1
        return durations[min(last, int(share * len(durations)))] / 1000 if durations else 0.0


class Load:
    """Load generator: a pod that sends streams through the Service for at most `seconds`.

    `began_us` is before the first request, in microseconds since the epoch.
    """

    def __init__(
        self, release: Release, image: str, name: str, streams: Sequence[Stream], seconds: float
    ) -> None:
        self.streams = tuple(streams)
        self.began_us = time.time_ns() // 1000
        self._release = release
        self._seconds = seconds
        api = release.cluster.api
        config = {
            "target": f"{release.name}:80",
            "seconds": seconds,
            "streams": [asdict(each) for each in streams],
        }
        script = (ROOT / "deploy/kind/load.py").read_text()
        meta = {"name": name, "namespace": release.namespace, "labels": {"app": "e2e-load"}}
        self._script = ConfigMap({"metadata": meta, "data": {"load.py": script}}, api=api)
        self._pod = Pod({"metadata": meta, "spec": _spec(image, name, config)}, api=api)

    def __enter__(self) -> Self:
        self._script.create()
        self._pod.create()
        try:
            eventually(lambda: self.phase != "Pending", within=timeouts.POD, what="load is sent")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    @property
    def phase(self) -> str:
        """Phase of the pod."""
        self._pod.refresh()
        return str(self._pod.status.phase)

    @property
    def running(self) -> bool:
        """Whether the pod is still sending."""
        return self.phase == "Running"

    def stop(self) -> None:
        """Stop sending."""
        assert self.running, f"the load ended before its stop:\n{self._log()}"
        touch = "open('/tmp/stop', 'w')"
        self._release.kubectl("exec", self._pod.name, "--", "python", "-c", touch)

    def answers(self) -> Answers:
        """Wait for the end of the load and return its results."""
        within = self._seconds + timeouts.LOAD_ENDS
        eventually(lambda: not self.running, within=within, what="the load ends")
        text = self._log()
        assert self.phase == "Succeeded", f"the load failed:\n{text[-2000:]}"
        requests = (
            Request(
                self.streams[number],
                sent_us,
                duration_us,
                status if isinstance(status, int) else 0,
                status if isinstance(status, str) else "",
            )
            for number, sent_us, duration_us, status in json.loads(text)
        )
        return Answers(tuple(sorted(requests, key=lambda each: each.sent_us)))

    def _log(self) -> str:
        return self._release.kubectl("logs", self._pod.name)

    def _remove(self) -> None:
        self._pod.delete(grace_period=0)
        self._script.delete()


def _spec(image: str, name: str, config: Mapping[str, object]) -> dict[str, object]:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "load",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python", "/load/load.py"],
                "env": [{"name": "LOAD", "value": json.dumps(config)}],
                "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}},
                "volumeMounts": [
                    {"name": "script", "mountPath": "/load"},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of its own
                ],
            }
        ],
        "volumes": [
            {"name": "script", "configMap": {"name": name}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
