"""What the experiments measured: one row each, as a table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headgate.core.decision import Outcome
from headgate.server.demo.allowance import permitted
from support import e2e_timeouts as timeouts
from support.e2e_eventually import eventually
from support.e2e_load import Answers
from support.e2e_scene import QUOTAS
from support.e2e_watch import Watch

_LET_IN = (Outcome.ALLOWED, Outcome.FAIL_OPEN)
_REFUSED = (Outcome.DENIED,)


@dataclass(frozen=True, slots=True)
class Row:
    """What an experiment measured.

    Args:
        experiment: Its name.
        sent: Requests sent.
        permitted: Requests that the policies permit to those callers in that time.
        admitted: Requests let in.
        denied: Requests refused with 429.
        overshoot: Requests let in beyond what is permitted to their caller.
        server_errors: Answers with 5xx.
        refused: Connections refused.
        broken: Other requests without an answer.
        p99_ms: Milliseconds that 99 of 100 answers took at most.
        slowest_ms: Milliseconds of the slowest answer.
        counters: What the pods' counters say was let in and refused.
        logged: Refusals in the logs.
        pods: For each pod what it let in and refused.
        more: What only this experiment measures.
    """

    experiment: str
    sent: int
    permitted: int
    admitted: int
    denied: int
    overshoot: int
    server_errors: int
    refused: int
    broken: int
    p99_ms: float
    slowest_ms: float
    counters: tuple[int, int]
    logged: int
    pods: Mapping[str, tuple[int, int]]
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def tallies_agree(self) -> bool:
        """Whether client, counters and logs say the same."""
        return self.counters == (self.admitted, self.denied) and self.logged == self.denied


def measure(
    experiment: str,
    answers: Answers,
    watch: Watch,
    more: Mapping[str, object] | None = None,
    *,
    beyond: Mapping[str, int] | None = None,
) -> Row:
    """Return what an experiment measured.

    Args:
        experiment: Its name.
        answers: What became of its requests.
        watch: What was seen of the pods.
        more: What only this experiment measures.
        beyond: For each policy what a caller may get above its quota, the store being away.
    """
    watch.look()
    allowed, over = 0, 0
    for policy, quota in QUOTAS.items():
        for caller in {each.stream.caller for each in answers.requests}:
            mine = answers.of(policy=policy, caller=caller)
            if mine.requests:
                most = permitted([quota], mine.start_us, mine.end_us)
                most += (beyond or {}).get(policy, 0)
                allowed += most
                over += max(0, mine.admitted - most)
    pods = {
        pod: tuple(
            sum(count for (_, seen), count in decided.items() if seen in outcomes)
            for outcomes in (_LET_IN, _REFUSED)
        )
        for pod, decided in watch.decisions().items()
    }
    faults = [each.fault for each in answers.faults]
    return Row(
        experiment,
        len(answers.requests),
        allowed,
        answers.admitted,
        answers.denied,
        over,
        len(answers.server_errors),
        faults.count("refused"),
        len(faults) - faults.count("refused"),
        round(answers.slowest_ms(0.99), 1),
        round(answers.slowest_ms(), 1),
        (sum(each[0] for each in pods.values()), sum(each[1] for each in pods.values())),
        watch.logged().total(),
        {pod: (each[0], each[1]) for pod, each in pods.items()},
        more or {},
    )


class Report:
    """Collects the rows of a run in a folder.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: Row) -> None:
        """Add a row and write all of them."""
        self.rows.append(row)
        found = [asdict(each) | {"tallies_agree": each.tallies_agree} for each in self.rows]
        (self.folder / "results.json").write_text(json.dumps(found, indent=2) + "\n")

    def record(
        self,
        experiment: str,
        answers: Answers,
        watch: Watch,
        more: Mapping[str, object] | None = None,
        *,
        beyond: Mapping[str, int] | None = None,
    ) -> Row:
        """Add the row of an experiment once its three tallies agree.

        The arguments are those of `measure`.

        Raises:
            AssertionError: They do not; the row is added all the same.
        """
        rows: list[Row] = []

        def look() -> Row:
            rows[:] = [measure(experiment, answers, watch, more, beyond=beyond)]
            row = rows[0]
            told = f"counters say {row.counters}, logs {row.logged} refused"
            assert row.tallies_agree, told
            return row

        seen = f"{answers.admitted} let in and {answers.denied} refused, as clients say"
        try:
            return eventually(look, within=timeouts.TALLIES_AGREE, what=seen)
        finally:
            for row in rows:
                self.add(row)

    def table(self) -> list[str]:
        """Return the rows as lines for a terminal."""
        head = (
            *("experiment", "sent", "permitted", "admitted", "429", "over", "5xx", "refused"),
            *("broken", "p99 ms", "max ms", "counters", "logged", "pods"),
        )
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return [_aligned(line, widths) for line in lines]


def _cells(row: Row) -> tuple[str, ...]:
    figures = (
        *(row.sent, row.permitted, row.admitted, row.denied, row.overshoot, row.server_errors),
        *(row.refused, row.broken, row.p99_ms, row.slowest_ms),
        f"{row.counters[0]}+{row.counters[1]}",
        row.logged,
        " ".join(f"{allowed}/{denied}" for allowed, denied in row.pods.values()),
    )
    return (row.experiment, *(str(each) for each in figures))


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
