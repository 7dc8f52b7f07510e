"""Outage of the store: its policies, its load and its phases."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from fleetlimit.core.decision import Outcome
from support import e2e_timeouts as timeouts
from support.e2e_load import Stream
from support.e2e_scene import ALGORITHMS, streams
from support.e2e_watch import Watch
from support.eventually import eventually

DENY: Final = "fixed"
"""Policy with `on_store_error: deny`."""
ALLOW: Final = "sliding"
"""Policy with `on_store_error: allow`."""
LOCAL: Final = "bucket"
"""Policy with `on_store_error: local`."""
SPENT: Final = "spoofed"
"""Policy that needs minutes to refill a unit, so a spent bucket stays empty in an experiment."""
NONE: Final = "none"
"""Stands for requests without a policy, which never wait for the store."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Outage of the store; all times are in microseconds since the epoch.

    Args:
        start_us: Start of the fault.
        seen_us: Every pod's circuit breaker is open.
        end_us: Start of the recovery.
        back_us: The store is ready.
        over_us: Every pod's circuit breaker is closed.
    """

    start_us: int
    seen_us: int
    end_us: int
    back_us: int
    over_us: int


def load(experiment: str, *more: str) -> tuple[Stream, ...]:
    """Return streams of all callers of an experiment, fast enough to exhaust a local share soon.

    One stream requests an unknown route: it measures how slow the cluster itself is.

    Args:
        experiment: Name of the experiment.
        more: Policies in addition to one of each algorithm.
    """
    held = streams(experiment, per_second=2, policies=(*ALGORITHMS, LOCAL, *more))
    return (*held, Stream(NONE, "nobody", "GET", "/nothing", per_second=10))


def until_used(watch: Watch) -> None:
    """Wait until the store has decided requests."""
    before = watch.decided(DENY, Outcome.ALLOWED)
    eventually(
        lambda: watch.decided(DENY, Outcome.ALLOWED) >= before + 60,
        within=timeouts.POD,
        what="requests are decided by the store",
    )


def until_spent(watch: Watch) -> None:
    """Wait until a bucket of `SPENT` has been empty for seconds."""
    eventually(
        lambda: watch.decided(SPENT, Outcome.DENIED) >= 60,
        within=timeouts.POD,
        what="an allowance was spent seconds ago",
    )


def until_seen(watch: Watch) -> int:
    """Wait until every circuit breaker is open, and return the time."""
    _until(watch, 1, "every pod sees that the store is away")
    return watch.mark("seen by all")


def until_over(watch: Watch) -> int:
    """Wait until every circuit breaker is closed, and return the time."""
    _until(watch, 0, "every pod asks the store again")
    return watch.mark("found by all")


def _until(watch: Watch, breaker_open: int, what: str) -> None:
    eventually(lambda: watch.away() == {breaker_open}, within=timeouts.POD, what=what)


def run_outage(
    watch: Watch,
    what: str,
    fault: AbstractContextManager[None],
    until: Callable[[], object] = lambda: None,
) -> Outage:
    """Keep the fault until many requests were decided without the store, then wait for recovery.

    Args:
        watch: Watch in which the fault and the recovery are marked.
        what: Name of the fault.
        fault: Context in which the store is unreachable.
        until: Waits for a further condition during the fault.
    """
    start_us = watch.mark(what)
    with fault:
        seen_us = until_seen(watch)
        refused = watch.decided(LOCAL, Outcome.DENIED)
        eventually(
            lambda: watch.decided(DENY, Outcome.FAIL_CLOSED) >= 80,
            within=timeouts.POD,
            what="requests are decided without the store",
        )
        eventually(
            # More than cached denials of the store can explain.
            lambda: watch.decided(LOCAL, Outcome.DENIED) >= refused + 40,
            within=timeouts.POD,
            what="local shares are used up",
        )
        until()
        end_us = watch.mark("store returns")
    back_us = watch.mark("store is back")
    return Outage(start_us, seen_us, end_us, back_us, until_over(watch))
