"""Counts answers as they come: for each replica, for each caller, and in all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_OK, _TOO_MANY = 200, 429
NO_RESPONSE = 0
"""Status of a request that got no answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request: `status` is `NO_ANSWER` when the connection failed."""

    replica: str
    caller: str
    status: int
    latency_s: float


@dataclass(slots=True)
class Counts:
    """Answers of one kind of sender or receiver, and how long each took, in seconds."""

    allowed: int = 0
    denied: int = 0
    errors: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All answers, errors included."""
        return self.allowed + self.denied + self.errors

    def add(self, result: Result) -> None:
        """Count an answer; what is neither a success nor a refusal is an error."""
        if result.status == _OK:
            self.allowed += 1
        elif result.status == _TOO_MANY:
            self.denied += 1
        else:
            self.errors += 1
        self.latencies_s.append(result.latency_s)


class Results:
    """Counts of all that take part, in the order of their names here.

    Args:
        replicas: Names of the replicas.
        callers: Names of the callers.
    """

    def __init__(self, replicas: Iterable[str], callers: Iterable[str]) -> None:
        self.total = Counts()
        self.replicas = {name: Counts() for name in replicas}
        self.callers = {name: Counts() for name in callers}

    def add(self, result: Result) -> None:
        """Count an answer."""
        for counts in (self.total, self.replicas[result.replica], self.callers[result.caller]):
            counts.add(result)


def percentile_ms(seconds: Sequence[float], percent: int) -> float:
    """Return the time in milliseconds that `percent` of the times do not exceed (nearest rank)."""
    if not seconds:
        return 0.0
    rank = -(-len(seconds) * percent // 100)
    return sorted(seconds)[max(rank, 1) - 1] * 1_000
