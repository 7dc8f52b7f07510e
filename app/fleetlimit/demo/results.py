"""Counts answers as they come: for each replica, for each caller, and in all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_OK, _TOO_MANY = 200, 429
NO_ANSWER = 0
"""Status of a request that got no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: `status` is `NO_ANSWER` when the connection failed."""

    replica: str
    caller: str
    status: int
    seconds: float


@dataclass(slots=True)
class Count:
    """Answers of one kind of sender or receiver, and how long each took, in seconds."""

    allowed: int = 0
    denied: int = 0
    errors: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """All answers, errors included."""
        return self.allowed + self.denied + self.errors

    def add(self, answer: Answer) -> None:
        """Count an answer; what is neither a success nor a refusal is an error."""
        if answer.status == _OK:
            self.allowed += 1
        elif answer.status == _TOO_MANY:
            self.denied += 1
        else:
            self.errors += 1
        self.seconds.append(answer.seconds)


class Tally:
    """Counts of all that take part, in the order of their names here.

    Args:
        replicas: Names of the replicas.
        callers: Names of the callers.
    """

    def __init__(self, replicas: Iterable[str], callers: Iterable[str]) -> None:
        self.total = Count()
        self.replicas = {name: Count() for name in replicas}
        self.callers = {name: Count() for name in callers}

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        for count in (self.total, self.replicas[answer.replica], self.callers[answer.caller]):
            count.add(answer)


def percentile_ms(seconds: Sequence[float], percent: int) -> float:
    """Return the time in milliseconds that `percent` of the times do not exceed (nearest rank)."""
    if not seconds:
        return 0.0
    rank = -(-len(seconds) * percent // 100)
    return sorted(seconds)[max(rank, 1) - 1] * 1_000
