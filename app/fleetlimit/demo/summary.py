"""Summary of a run: responses compared with the limits and with the replicas' own counts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fleetlimit.demo.expected import max_admitted
from fleetlimit.demo.results import Counts, Results, percentile_ms
from fleetlimit.demo.scenario import Caller
from fleetlimit.demo.store_stats import StoreStats


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """Counts that one replica reports.

    Args:
        allowed: Allowed requests by its metrics.
        denied: Denied requests by its metrics.
        denied_in_log: Denied requests by its log, complete after it stopped.
    """

    allowed: int
    denied: int
    denied_in_log: int


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """Responses of one replica; latencies in milliseconds."""

    name: str
    allowed: int
    denied: int
    errors: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    """Responses to one caller, and the number of requests that its limits permit."""

    name: str
    tier: str
    limits: str
    sent: int
    permitted: int
    admitted: int
    denied: int
    errors: int

    @property
    def overshoot(self) -> int:
        """Requests admitted above the limit of this caller."""
        return max(0, self.admitted - self.permitted)


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """Summary of a run.

    Args:
        replicas: One row for each replica.
        principals: One row for each caller.
        reports: Counts that each replica reports, by name.
        script_calls: Script calls that the store counted; None for `memory://`.
        seconds: Duration of the run on the store's clock.
        p50_ms: Median latency in milliseconds.
        p99_ms: 99th percentile of the latencies in milliseconds.
    """

    replicas: tuple[ReplicaRow, ...]
    principals: tuple[PrincipalRow, ...]
    reports: Mapping[str, ReplicaReport]
    script_calls: int | None
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def requests(self) -> int:
        """Requests sent."""
        return sum(row.sent for row in self.principals)

    @property
    def permitted(self) -> int:
        """Requests that the limits permit."""
        return sum(row.permitted for row in self.principals)

    @property
    def admitted(self) -> int:
        """Requests admitted."""
        return sum(row.admitted for row in self.principals)

    @property
    def denied(self) -> int:
        """Requests rejected with 429."""
        return sum(row.denied for row in self.principals)

    @property
    def overshoot(self) -> int:
        """Requests admitted above a caller's limit; callers never offset each other."""
        return sum(row.overshoot for row in self.principals)

    @property
    def errors(self) -> int:
        """Requests without a response, or with a status other than 200 and 429."""
        return sum(row.errors for row in self.principals)

    @property
    def commands_per_request(self) -> float | None:
        """Script calls per request; None for `memory://`."""
        return None if self.script_calls is None else self.script_calls / self.requests

    @property
    def tallies_agree(self) -> bool:
        """Whether responses, metrics and log have equal counts for every replica."""
        return all(
            ReplicaReport(row.allowed, row.denied, row.denied) == self.reports[row.name]
            for row in self.replicas
        )

    @property
    def holds(self) -> bool:
        """Whether the limit holds; a run without any decision proves nothing."""
        decided = self.admitted + self.denied > 0
        return decided and self.overshoot == 0 and self.tallies_agree

    def tallies(self) -> dict[str, dict[str, int]]:
        """Return the counts of responses, metrics and logs, summed over the replicas."""
        reports = self.reports.values()
        return {
            "responses": {"allowed": self.admitted, "denied": self.denied},
            "metrics": {
                "allowed": sum(each.allowed for each in reports),
                "denied": sum(each.denied for each in reports),
            },
            "logs": {"denied": sum(each.denied_in_log for each in reports)},
        }

    def as_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        commands = self.commands_per_request
        return {
            "holds": self.holds,
            "requests": self.requests,
            "permitted": self.permitted,
            "admitted": self.admitted,
            "denied": self.denied,
            "overshoot": self.overshoot,
            "errors": self.errors,
            "redis_commands_per_request": None if commands is None else round(commands, 3),
            "p50_ms": round(self.p50_ms, 1),
            "p99_ms": round(self.p99_ms, 1),
            "seconds": round(self.seconds, 3),
            "tallies_agree": self.tallies_agree,
            "tallies": self.tallies(),
            "replicas": [
                asdict(row) | {"p50_ms": round(row.p50_ms, 1), "p99_ms": round(row.p99_ms, 1)}
                for row in self.replicas
            ],
            "principals": [asdict(row) | {"overshoot": row.overshoot} for row in self.principals],
        }


def summarize(
    callers: Sequence[Caller],
    results: Results,
    before: StoreStats,
    after: StoreStats,
    reports: dict[str, ReplicaReport],
) -> DemoSummary:
    """Compare the results of a run with the limits and the replicas' counts.

    Args:
        callers: Callers of the scenario.
        results: Results of their requests.
        before: Statistics of the store before the first request.
        after: Statistics of the store after the last response.
        reports: Counts that each replica reports, by name.
    """
    script_calls = None
    if before.script_calls is not None and after.script_calls is not None:
        script_calls = after.script_calls - before.script_calls
    return DemoSummary(
        replicas=tuple(_replica_row(name, counts) for name, counts in results.replicas.items()),
        principals=principal_rows(callers, results, before.store_now_us, after.store_now_us),
        reports=reports,
        script_calls=script_calls,
        seconds=(after.store_now_us - before.store_now_us) / 1e6,
        p50_ms=percentile_ms(results.total.latencies_s, 50),
        p99_ms=percentile_ms(results.total.latencies_s, 99),
    )


def _replica_row(name: str, counts: Counts) -> ReplicaRow:
    return ReplicaRow(
        name,
        counts.allowed,
        counts.denied,
        counts.errors,
        percentile_ms(counts.latencies_s, 50),
        percentile_ms(counts.latencies_s, 99),
    )


def principal_rows(
    callers: Sequence[Caller], results: Results, start_us: int, end_us: int
) -> tuple[PrincipalRow, ...]:
    """Return the row of each caller for a run between two times of the store's clock."""
    return tuple(
        PrincipalRow(
            caller.name,
            caller.tier,
            caller.limits,
            counts.requests,
            max_admitted(caller.quotas, start_us, end_us),
            counts.allowed,
            counts.denied,
            counts.errors,
        )
        for caller, counts in ((each, results.callers[each.name]) for each in callers)
    )
