"""Figures of the experiments: one row each, as a table and as JSON.

A row has three tallies of overshoot: requests beyond the policy, those of them that the fault of
the experiment explains, and those beyond what is promised for that fault, which must be none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Final

from fleetlimit.core.decision import Outcome
from fleetlimit.core.quota import Quota
from support import e2e_timeouts as timeouts
from support.e2e_load import Answers
from support.e2e_series import permitted_to_all
from support.e2e_setup import QUOTAS
from support.e2e_tally import LEAST_OFFERED, Offered, Promise, Tally, offered, tally
from support.e2e_watch import Watch
from support.eventually import eventually

_ADMITTED = (Outcome.ALLOWED, Outcome.FAIL_OPEN)
_REJECTED = (Outcome.DENIED,)
NO_PROMISE: Final = Promise()
"""Promise of an experiment without a fault of the store: no request beyond the policy."""


class OvershootError(AssertionError):
    """Requests were admitted beyond what is promised. A broken limiter must raise it."""


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of an experiment.

    Args:
        experiment: Name of the experiment.
        sent: Requests sent.
        permitted: Requests that the policies permit to those callers in that time.
        admitted: Admitted requests.
        denied: Requests rejected with 429.
        offered: Requests sent as a multiple of those permitted, by phase: the lowest of any caller
            under any policy.
        tally: Requests admitted beyond the policies.
        audited: Highest overshoot that the audit of a replica reported.
        server_errors: Responses with 5xx.
        refused: Connections refused.
        broken: Other requests without a response.
        p99_ms: p99 of the response time, in milliseconds.
        slowest_ms: Longest response time, in milliseconds.
        counters: Admitted and rejected requests by the counters of the pods.
        logged: Rejections in the logs.
        pods: Admitted and rejected requests of each pod.
        more: Figures that only this experiment has.
    """

    experiment: str
    sent: int
    permitted: int
    admitted: int
    denied: int
    offered: Mapping[str, float]
    tally: Tally
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
        """Whether the tallies of clients, counters and logs agree."""
        return self.counters == (self.admitted, self.denied) and self.logged == self.denied

    @property
    def least_offered(self) -> float:
        """Lowest multiple of the permitted requests sent in any phase; 0 without a limit."""
        return min(self.offered.values(), default=0.0)

    @property
    def beyond_policy(self) -> int:
        """Requests admitted beyond the policies."""
        return self.tally.beyond_policy

    @property
    def beyond_promise(self) -> int:
        """Requests admitted beyond what is promised for the fault of the experiment."""
        return self.tally.beyond_promise

    def expect(self, **figures: float) -> None:
        """Compare figures with expected values.

        Raises:
            AssertionError: A figure differs; the message has both values.
        """
        for name, expected in figures.items():
            seen = getattr(self, name)
            assert seen == expected, f"{self.experiment}: expected {name} {expected}, seen {seen}"

    def expect_lossless(self) -> None:
        """Expect no overshoot, no 5xx, a response to every request, and use of the limits.

        Raises:
            AssertionError: A figure differs; the message has both values.
        """
        self.expect(beyond_policy=0, audited=0, server_errors=0, refused=0, broken=0)
        self.expect_use()

    def expect_pods(self, count: int) -> None:
        """Expect this number of pods, each of which admitted and rejected requests.

        Raises:
            AssertionError: A pod is missing or idle; the message has the figures of all pods.
        """
        assert len(self.pods) == count, f"{self.experiment}: expected {count} pods: {self.pods}"
        assert all(allowed and denied for allowed, denied in self.pods.values()), self.pods

    def expect_use(self) -> None:
        """Expect that most of the permitted requests were admitted.

        A limiter that rejects everything has no overshoot either.

        Raises:
            AssertionError: Less than 60 % of the permitted requests were admitted.
        """
        least = round(0.6 * self.permitted)
        assert self.admitted >= least, (
            f"{self.experiment}: expected at least {least} of {self.permitted} permitted requests "
            f"to be admitted, seen {self.admitted}"
        )


@dataclass(frozen=True, slots=True)
class Run:
    """Figures and raw data of an experiment.

    Args:
        row: Figures.
        answers: Results of the requests.
        watch: Observations of the pods.
        quotas: Limit of each policy.
        promise: Requests beyond the policies that are promised for the fault of the experiment.
        offered: Requests that each caller sent in each phase under each policy.
    """

    row: Row
    answers: Answers
    watch: Watch
    quotas: Mapping[str, Quota]
    promise: Promise
    offered: Sequence[Offered]

    def expect_proof(self) -> None:
        """Expect no request beyond what is promised, and enough requests to show one.

        Raises:
            OvershootError: Requests were admitted beyond what is promised.
            AssertionError: In a phase, a caller sent less than `LEAST_OFFERED` times its limit.
        """
        row = self.row
        if row.beyond_promise:
            raise OvershootError(f"{row.experiment}: {row.tally}")
        little = [each for each in self.offered if each.share < LEAST_OFFERED]
        assert self.offered, f"{row.experiment}: no caller sent a request under a policy"
        assert not little, (
            f"{row.experiment}: expected {LEAST_OFFERED} times the permitted requests of each "
            f"caller in each phase, seen {little[:5]}"
        )


def measure(
    experiment: str,
    answers: Answers,
    watch: Watch,
    more: Mapping[str, object] | None = None,
    *,
    promise: Promise = NO_PROMISE,
    quotas: Mapping[str, Quota] = QUOTAS,
) -> Run:
    """Return the figures and raw data of an experiment; `more` are figures that only it has."""
    watch.read_counters()
    allowed, over = 0, Tally()
    for policy, quota in quotas.items():
        mine = answers.of(policy=policy)
        if mine.requests:
            allowed += permitted_to_all(quota, mine, [mine.end_us])[0]
            over += tally(policy, quota, answers, promise)
    sent = tuple(offered(answers, watch.marks, quotas))
    policies = {each.stream.policy for each in answers.requests}
    pods = {
        pod: tuple(
            sum(
                count
                for (policy, seen), count in decided.items()
                # A policy in shadow mode also counts these requests.
                if policy in policies and seen in outcomes
            )
            for outcomes in (_ADMITTED, _REJECTED)
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
        {
            phase: round(min(each.share for each in sent if each.phase == phase), 2)
            for phase in dict.fromkeys(each.phase for each in sent)
        },
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
    return Run(row, answers, watch, quotas, promise, sent)


class Report:
    """Report of a run of the suite, written into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[Run] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, run: Run) -> None:
        """Add an experiment, write its raw data and the rows of all experiments."""
        self.runs.append(run)
        _write_raw_data(run)
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
        promise: Promise = NO_PROMISE,
        quotas: Mapping[str, Quota] = QUOTAS,
    ) -> Row:
        """Add an experiment once the tallies of clients, counters and logs agree.

        The arguments are those of `measure`.

        Raises:
            OvershootError: Requests were admitted beyond what is promised.
            AssertionError: The tallies disagree, or a caller sent too little for a proof.

        The report has the experiment nevertheless.
        """
        runs: list[Run] = []

        def measured_row() -> Row:
            runs[:] = [measure(experiment, answers, watch, more, promise=promise, quotas=quotas)]
            row = runs[0].row
            tallies = f"counters have {row.counters}, logs {row.logged} denials"
            assert row.tallies_agree, tallies
            return row

        seen = f"{answers.admitted} admitted and {answers.denied} denied, as counted by clients"
        try:
            row = eventually(measured_row, within=timeouts.TALLIES_AGREE, what=seen)
        finally:
            for run in runs:
                self.add(run)
        runs[0].expect_proof()
        return row

    def table(self) -> list[str]:
        """Return the rows as lines for a terminal."""
        head = (
            *("experiment", "sent", "permitted", "admitted", "429", "least sent"),
            *("beyond the policy", "by fallback", "by lost state", "beyond the promise", "audit"),
            *("5xx", "refused", "broken", "p99 ms", "max ms", "counters", "logged", "pods"),
        )
        lines = [head, *(_cells(run.row) for run in self.runs)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return [_aligned(line, widths) for line in lines]


def _write_raw_data(run: Run) -> None:
    """Write the requests, counter readings and marks of an experiment into its folder.

    A request is `[policy, caller, sent_us, duration_us, status]`, with its fault in place of a
    missing status. A reading is `[at_us, pod, [[policy, outcome, count], ...]]`, a mark is
    `[at_us, what]`, and the load of a phase is `[phase, policy, caller, sent, permitted]`.
    """
    raw: dict[str, list[tuple[object, ...]]] = {
        "requests": [
            (
                each.stream.policy,
                each.stream.caller,
                each.sent_us,
                each.duration_us,
                each.fault or each.status,
            )
            for each in run.answers.requests
        ],
        "readings": [
            (each.at_us, each.pod, [(*key, count) for key, count in each.decisions.items()])
            for each in run.watch.readings
        ],
        "marks": [(each.at_us, each.what) for each in run.watch.marks],
        "offered": [astuple(each) for each in run.offered],
    }
    for name, found in raw.items():
        text = json.dumps(found, separators=(",", ":"))
        (run.watch.folder / f"{name}.json").write_text(text + "\n")


def _cells(row: Row) -> tuple[str, ...]:
    figures = (
        *(row.sent, row.permitted, row.admitted, row.denied, f"{row.least_offered:g} x"),
        *(row.tally.beyond_policy, row.tally.by_fallback, row.tally.by_lost_state),
        *(row.tally.beyond_promise, row.audited),
        *(row.server_errors, row.refused, row.broken, row.p99_ms, row.slowest_ms),
        f"{row.counters[0]}+{row.counters[1]}",
        row.logged,
        " ".join(f"{allowed}/{denied}" for allowed, denied in row.pods.values()),
    )
    return (row.experiment, *(str(each) for each in figures))


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
