"""One contender's own check, called without HTTP in processes of their own."""

from typing import Final

from harness.apart import answer, start
from harness.effort import Effort
from harness.lineup import Contender
from harness.requests import PRINCIPALS
from harness.results import Figures
from harness.store import Store

TASKS: Final = 256
_LIMIT: Final = 10_000_000


def checks_per_second(
    store: Store,
    contender: Contender,
    effort: Effort,
    *,
    principals: int = PRINCIPALS,
    processes: int = 1,
    limits: int = 1,
    lease: float = 0,
) -> Figures:
    """Return the figures of one contender in one round.

    Args:
        store: The store, which is cleared.
        contender: Whose check it is.
        effort: For how long.
        principals: Callers who are checked.
        processes: Processes that check at the same time.
        limits: Limits of the policy.
        lease: The part of them that is taken in one call; 0 for none.

    Raises:
        RuntimeError: It refused somebody who is within the limit, or decided without the store.
    """
    store.clear()
    variables = {
        # The drivers' pools refuse more than a hundred connections unless they are told.
        "BENCH_STORE": f"{store.url}?max_connections={2 * TASKS}",
        "BENCH_LIMIT": str(_LIMIT),
        "BENCH_LIMITS": str(limits),
        "BENCH_LEASE": str(lease),
    }
    arguments = [effort.seconds, TASKS, principals]
    started = [start(contender, "harness.checking", arguments, variables) for _ in range(processes)]
    found = [answer(contender, process) for process in started]
    checks = sum(each["checks"] for each in found)
    if checks != sum(each["admitted"] for each in found):
        raise RuntimeError(
            f"{contender.name} refused somebody who is within the limit, or was not asked"
        )
    work = store.work()
    # The store has seen the warm-up, too, which is a quarter as long again.
    seen = checks + sum(each["warm"] for each in found)
    return {
        "checks/s": sum(each["checks"] / each["seconds"] for each in found),
        "us CPU/check": 1e6 * sum(each["cpu"] for each in found) / checks,
        "store us/check": 1e6 * work.busy_seconds / seen,
        "script us/check": work.script_us * work.calls / seen,
        "checks/call": seen / work.calls,
        "bytes/check": work.net_bytes / seen,
        "store busy": work.busy_seconds / (1.25 * effort.seconds),
    }
