"""Judges the answers by what the policies permit, and by what the replicas say of themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fleetlimit.demo.expected import max_admitted
from fleetlimit.demo.results import Counts, Results, percentile_ms
from fleetlimit.demo.scenario import Caller
from fleetlimit.demo.store_stats import StoreStats


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What one replica says of itself: its metrics, and after it stopped its log."""

    allowed: int
    denied: int
    denied_in_log: int


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """What one replica answered; times in milliseconds."""

    name: str
    allowed: int
    denied: int
    errors: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    """What one caller got, and what its policy permits."""

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
        """Requests let in beyond what the policy permits; one caller's never offset another's."""
        return max(0, self.admitted - self.permitted)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration found.

    Args:
        replicas: One row for each replica.
        principals: One row for each caller.
        reports: What each replica says of itself, by name.
        script_calls: Calls of scripts that the store counted; None when there is none to ask.
        seconds: How long it took, on the store's clock.
        p50_ms: Time that half of the answers did not exceed.
        p99_ms: Time that 99 % of the answers did not exceed.
    """

    replicas: tuple[ReplicaRow, ...]
    principals: tuple[PrincipalRow, ...]
    reports: Mapping[str, ReplicaReport]
    script_calls: int | None
    seconds: float
    p50_ms: float
    p99_ms: float

    def _sum(self, name: str) -> int:
        return sum(getattr(row, name) for row in self.principals)

    @property
    def requests(self) -> int:
        """Requests sent."""
        return self._sum("sent")

    @property
    def permitted(self) -> int:
        """Requests that the policies permit."""
        return self._sum("permitted")

    @property
    def admitted(self) -> int:
        """Requests let in."""
        return self._sum("admitted")

    @property
    def denied(self) -> int:
        """Requests refused with 429."""
        return self._sum("denied")

    @property
    def overshoot(self) -> int:
        """Requests let in beyond what a caller's policy permits."""
        return self._sum("overshoot")

    @property
    def errors(self) -> int:
        """Requests answered with 5xx or another status that is neither 200 nor 429, or not."""
        return self._sum("errors")

    @property
    def commands_per_request(self) -> float | None:
        """Script calls of the store for each request."""
        return None if self.script_calls is None else self.script_calls / self.requests

    @property
    def tallies_agree(self) -> bool:
        """Whether the responses, the metrics and the log of every replica tell the same."""
        return all(
            ReplicaReport(row.allowed, row.denied, row.denied) == self.reports[row.name]
            for row in self.replicas
        )

    @property
    def holds(self) -> bool:
        """Whether the limit holds; when nothing was decided, nothing is known to hold."""
        decided = self.admitted + self.denied > 0
        return decided and self.overshoot == 0 and self.tallies_agree

    def tallies(self) -> dict[str, dict[str, int]]:
        """Return the three tallies, summed over the replicas."""
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
        """Return the verdict as a JSON object."""
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


def evaluate(
    callers: Sequence[Caller],
    results: Results,
    before: StoreStats,
    after: StoreStats,
    reports: dict[str, ReplicaReport],
) -> DemoResult:
    """Judge a run.

    Args:
        callers: Who took part.
        results: The answers they got.
        before: The store's clock and count before the first request.
        after: The same after the last answer.
        reports: What each replica says of itself, by name.
    """
    script_calls = None
    if before.script_calls is not None and after.script_calls is not None:
        script_calls = after.script_calls - before.script_calls
    return DemoResult(
        replicas=tuple(_replica_row(name, count) for name, count in results.replicas.items()),
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
    """Return what each caller got, and what its policy permits from start to end."""
    return tuple(
        PrincipalRow(
            caller.name,
            caller.tier,
            caller.limits,
            count.requests,
            max_admitted(caller.quotas, start_us, end_us),
            count.allowed,
            count.denied,
            count.errors,
        )
        for caller, count in ((each, results.callers[each.name]) for each in callers)
    )
