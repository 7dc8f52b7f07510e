"""Results of the requests, counted for each replica, for each caller and in total."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_OK, _TOO_MANY_REQUESTS = 200, 429
NO_RESPONSE = 0
"""Status of a request whose connection failed or timed out."""


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one request.

    Args:
        replica: Name of the replica.
        caller: Name of the caller.
        status: HTTP status, or `NO_RESPONSE`.
        latency_s: Seconds from sending the request to the end of the response.
    """

    replica: str
    caller: str
    status: int
    latency_s: float


@dataclass(slots=True)
class Counts:
    """Numbers of results, and their latencies in seconds."""

    allowed: int = 0
    denied: int = 0
    errors: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Number of requests, errors included."""
        return self.allowed + self.denied + self.errors

    def add(self, result: Result) -> None:
        """Count a result; every status but 200 and 429 is an error."""
        if result.status == _OK:
            self.allowed += 1
        elif result.status == _TOO_MANY_REQUESTS:
            self.denied += 1
        else:
            self.errors += 1
        self.latencies_s.append(result.latency_s)


class Results:
    """Counts in total, by replica and by caller.

    Args:
        replicas: Names of the replicas, in the order of the screen.
        callers: Names of the callers, in the order of the screen.
    """

    def __init__(self, replicas: Iterable[str], callers: Iterable[str]) -> None:
        self.total = Counts()
        self.replicas = {name: Counts() for name in replicas}
        self.callers = {name: Counts() for name in callers}

    def add(self, result: Result) -> None:
        """Count a result."""
        for counts in (self.total, self.replicas[result.replica], self.callers[result.caller]):
            counts.add(result)


def percentile_ms(latencies_s: Sequence[float], percent: int) -> float:
    """Return a percentile of latencies in milliseconds (nearest rank), 0 without any."""
    if not latencies_s:
        return 0.0
    rank = -(-len(latencies_s) * percent // 100)
    return sorted(latencies_s)[max(rank, 1) - 1] * 1_000
