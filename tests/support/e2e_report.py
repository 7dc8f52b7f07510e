"""What the experiments measured: one row each, as a table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fleetlimit.core.decision import Outcome
from fleetlimit.core.quota import Quota
from support import e2e_timeouts as timeouts
from support.e2e_eventually import eventually
from support.e2e_kept import keep
from support.e2e_load import Answers
from support.e2e_scene import QUOTAS
from support.e2e_series import overshoot_of_all, permitted_to_all
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
        audited: The most overshoot that any replica's audit told of.
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
    audited: int
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

    def expect(self, **figures: float) -> None:
        """Compare figures with what they have to be.

        Args:
            figures: What each of them has to be, by its name.

        Raises:
            AssertionError: One is not; the message has what was expected and what was seen.
        """
        for name, expected in figures.items():
            seen = getattr(self, name)
            assert seen == expected, f"{self.experiment}: expected {name} {expected}, seen {seen}"

    def expect_lossless(self) -> None:
        """Compare with what nobody notices: no overshoot, no 5xx, every request answered.

        Raises:
            AssertionError: It is not so; the message has what was expected and what was seen.
        """
        self.expect(overshoot=0, audited=0, server_errors=0, refused=0, broken=0)
        self.expect_use()

    def expect_pods(self, count: int) -> None:
        """Compare with pods of which each let in and refused.

        Args:
            count: How many there have to be.

        Raises:
            AssertionError: It is not so; the message has what each did.
        """
        assert len(self.pods) == count, f"{self.experiment}: expected {count} pods: {self.pods}"
        assert all(allowed and denied for allowed, denied in self.pods.values()), self.pods

    def expect_use(self) -> None:
        """Compare with a limiter that refuses everything, which would not overshoot either.

        Raises:
            AssertionError: Not even most of what is permitted was let in.
        """
        least = round(0.6 * self.permitted)
        assert self.admitted >= least, (
            f"{self.experiment}: expected at least {least} of {self.permitted} permitted requests "
            f"to be let in, seen {self.admitted}"
        )


@dataclass(frozen=True, slots=True)
class Run:
    """An experiment with all that was seen of it.

    Args:
        row: Its figures.
        answers: What became of its requests.
        watch: What was seen of the pods.
        quotas: The limit of each policy.
        beyond: For each policy what a caller may get above its quota, the store being away.
    """

    row: Row
    answers: Answers
    watch: Watch
    quotas: Mapping[str, Quota]
    beyond: Mapping[str, int]


def measure(
    experiment: str,
    answers: Answers,
    watch: Watch,
    more: Mapping[str, object] | None = None,
    *,
    beyond: Mapping[str, int] | None = None,
) -> Run:
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
        mine = answers.of(policy=policy)
        if mine.requests:
            above = (beyond or {}).get(policy, 0)
            allowed += permitted_to_all(quota, mine, [mine.end_us], beyond=above)[0]
            over += overshoot_of_all(quota, mine, beyond=above)
    held = {each.stream.policy for each in answers.requests}
    pods = {
        pod: tuple(
            sum(
                count
                for (policy, seen), count in decided.items()
                # One in shadow has its say about the same requests.
                if policy in held and seen in outcomes
            )
            for outcomes in (_LET_IN, _REFUSED)
        )
        for pod, decided in watch.decisions().items()
    }
    faults = [each.fault for each in answers.faults]
    row = Row(
        experiment,
        len(answers.requests),
        allowed,
        answers.admitted,
        answers.denied,
        over,
        watch.audited,
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
    return Run(row, answers, watch, QUOTAS, beyond or {})


class Report:
    """Collects the rows of a run in a folder.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[Run] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, run: Run) -> None:
        """Add an experiment, keep what was seen of it and write all rows."""
        self.runs.append(run)
        keep(run.answers, run.watch, run.beyond)
        rows = (each.row for each in self.runs)
        found = [asdict(row) | {"tallies_agree": row.tallies_agree} for row in rows]
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
        """Add an experiment once its three tallies agree.

        The arguments are those of `measure`.

        Raises:
            AssertionError: They do not; the experiment is added all the same.
        """
        runs: list[Run] = []

        def look() -> Row:
            runs[:] = [measure(experiment, answers, watch, more, beyond=beyond)]
            row = runs[0].row
            told = f"counters say {row.counters}, logs {row.logged} refused"
            assert row.tallies_agree, told
            return row

        seen = f"{answers.admitted} let in and {answers.denied} refused, as clients say"
        try:
            return eventually(look, within=timeouts.TALLIES_AGREE, what=seen)
        finally:
            for run in runs:
                self.add(run)

    def table(self) -> list[str]:
        """Return the rows as lines for a terminal."""
        head = (
            *("experiment", "sent", "permitted", "admitted", "429", "over", "audit"),
            *("5xx", "refused", "broken", "p99 ms", "max ms", "counters", "logged", "pods"),
        )
        lines = [head, *(_cells(run.row) for run in self.runs)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return [_aligned(line, widths) for line in lines]


def _cells(row: Row) -> tuple[str, ...]:
    figures = (
        *(row.sent, row.permitted, row.admitted, row.denied, row.overshoot, row.audited),
        *(row.server_errors, row.refused, row.broken, row.p99_ms, row.slowest_ms),
        f"{row.counters[0]}+{row.counters[1]}",
        row.logged,
        " ".join(f"{allowed}/{denied}" for allowed, denied in row.pods.values()),
    )
    return (row.experiment, *(str(each) for each in figures))


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
