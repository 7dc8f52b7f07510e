"""Results of a small run of the demonstration."""

from fleetlimit.core.quota import Quota, rate_quota
from fleetlimit.demo.results import Result, Results
from fleetlimit.demo.scenario import Caller
from fleetlimit.demo.store_stats import StoreStats
from fleetlimit.demo.summary import DemoSummary, ReplicaReport, summarize

HOUR_US = 3_600_000_000
START_US = 20_000 * 24 * HOUR_US


def caller(name: str, limit: int, *quotas: Quota, tier: str = "free") -> Caller:
    """Return a caller with a limit of so many requests an hour."""
    return Caller(name, tier, f"key-of-{name}", 1, quotas or (rate_quota(f"{limit}/hour"),))


CALLERS = (caller("alice", 3), caller("bob", 2, tier=""))
REPLICAS = ("replica-1", "replica-2")


def results_of(*statuses: int, caller: str = "alice") -> Results:
    """Return results of a caller whose requests went to the replicas in turn."""
    results = Results(REPLICAS, [each.name for each in CALLERS])
    for number, status in enumerate(statuses):
        results.add(Result(REPLICAS[number % 2], caller, status, (number + 1) / 1_000))
    return results


def summary_of(results: Results, *, lost_in_log: int = 0, calls: int | None = 7) -> DemoSummary:
    """Return the summary of a run whose counts agree.

    Args:
        results: Results of the run.
        lost_in_log: Denials missing in the log of the first replica.
        calls: Script calls that the store counted.
    """
    reports = {
        name: ReplicaReport(count.allowed, count.denied, count.denied)
        for name, count in results.replicas.items()
    }
    first = reports[REPLICAS[0]]
    reports[REPLICAS[0]] = ReplicaReport(first.allowed, first.denied, first.denied - lost_in_log)
    before = StoreStats(START_US, None if calls is None else 100)
    after = StoreStats(START_US + 2_000_000, None if calls is None else 100 + calls)
    return summarize(CALLERS, results, before, after, reports)
