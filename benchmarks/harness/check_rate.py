"""Throughput of a contender's own check, called without HTTP in separate processes."""

from typing import Final

from harness.contender_process import read_result, start
from harness.effort import Effort
from harness.lineup import Contender
from harness.requests import PRINCIPALS
from harness.results import Figures
from harness.store import Store

TASKS: Final = 256
"""Concurrent checks in each process, in most scenes."""
_LIMIT: Final = 10_000_000
"""Requests a minute: more than any contender can check, so that every check is admitted."""


def checks_per_second(
    store: Store,
    contender: Contender,
    effort: Effort,
    *,
    tasks: int = TASKS,
    principals: int = PRINCIPALS,
    processes: int = 1,
    limits: int = 1,
    prefetch: float = 0,
) -> Figures:
    """Return one contender's figures of one round.

    Args:
        store: The store; its keys and statistics are cleared first.
        contender: The contender whose check is called.
        effort: Duration of the round.
        tasks: Concurrent checks in each process.
        principals: Number of distinct callers.
        processes: Processes that check at the same time, on one core.
        limits: Limits of the policy.
        prefetch: Fraction of the limit that one store call acquires ahead; 0 for none.

    Raises:
        RuntimeError: A check was rejected, or decided without the store.
    """
    store.clear()
    variables = {
        # The drivers' pools reject more than 100 connections by default.
        "BENCH_STORE": f"{store.url}?max_connections={2 * tasks}",
        "BENCH_LIMIT": str(_LIMIT),
        "BENCH_LIMITS": str(limits),
        "BENCH_PREFETCH": str(prefetch),
    }
    arguments = [effort.seconds, tasks, principals]
    started = [
        start(contender, "harness.check_process", arguments, variables) for _ in range(processes)
    ]
    found = [read_result(contender, process) for process in started]
    checks = sum(each["checks"] for each in found)
    if checks != sum(each["admitted"] for each in found):
        raise RuntimeError(
            f"{contender.name} rejected a caller within the limit, or decided without the store"
        )
    work = store.work()
    # The store's statistics include the warm-up, which lasts a quarter of the measured time.
    all_checks = checks + sum(each["warm"] for each in found)
    return {
        "checks/s": sum(each["checks"] / each["seconds"] for each in found),
        "us CPU/check": 1e6 * sum(each["cpu"] for each in found) / checks,
        "store us/check": 1e6 * work.busy_seconds / all_checks,
        "script us/check": work.script_us * work.calls / all_checks,
        "checks/call": all_checks / work.calls,
        "bytes/check": work.net_bytes / all_checks,
        "store busy": work.busy_seconds / (1.25 * effort.seconds),
    }
