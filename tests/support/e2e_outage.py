"""A time without the store, and how an experiment goes through it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from fleetlimit.core.decision import Outcome
from support import e2e_timeouts as timeouts
from support.e2e_eventually import eventually
from support.e2e_load import Stream
from support.e2e_scene import ALGORITHMS, streams
from support.e2e_watch import Watch

DENY: Final = "fixed"
"""The policy that says `deny` for the time without the store."""
ALLOW: Final = "sliding"
"""The policy that says `allow`."""
LOCAL: Final = "bucket"
"""The policy that says `local`."""
SPENT: Final = "spoofed"
"""The policy whose unit takes minutes to come again: once it is spent, it stays so."""
NONE: Final = "none"
"""Stands for the policy of requests that no policy holds, so that they never wait for the store."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without the store; all its times are in microseconds since the epoch.

    Args:
        start_us: The store is there until then.
        seen_us: Every pod knows that it is away.
        end_us: Until then it is away.
        back_us: From then on it is there.
        over_us: Every pod asks it again.
    """

    start_us: int
    seen_us: int
    end_us: int
    back_us: int
    over_us: int


def load(experiment: str, *more: str) -> tuple[Stream, ...]:
    """Return requests of all callers of an experiment, so many that a local share is soon used up.

    Some are of nobody, to a route that there is not: they tell how slow the cluster itself is.

    Args:
        experiment: Its name.
        more: Policies besides one of each algorithm.
    """
    held = streams(experiment, per_second=2, policies=(*ALGORITHMS, LOCAL, *more))
    return (*held, Stream(NONE, "nobody", "GET", "/nothing", per_second=10))


def until_used(watch: Watch) -> None:
    """Wait until the store has decided about requests."""
    before = watch.decided(DENY, Outcome.ALLOWED)
    eventually(
        lambda: watch.decided(DENY, Outcome.ALLOWED) >= before + 60,
        within=timeouts.POD,
        what="requests are decided by the store",
    )


def until_spent(watch: Watch) -> None:
    """Wait until an allowance of `SPENT` has been used up for seconds."""
    eventually(
        lambda: watch.decided(SPENT, Outcome.DENIED) >= 60,
        within=timeouts.POD,
        what="an allowance was spent seconds ago",
    )


def until_seen(watch: Watch) -> int:
    """Wait until every pod knows that the store is away, and return when that was."""
    _until(watch, 1, "every pod sees that the store is away")
    return watch.mark("seen by all")


def until_over(watch: Watch) -> int:
    """Wait until every pod has found the store again, and return when that was."""
    _until(watch, 0, "every pod asks the store again")
    return watch.mark("found by all")


def _until(watch: Watch, breaker_open: int, what: str) -> None:
    eventually(lambda: watch.away() == {breaker_open}, within=timeouts.POD, what=what)


def through(
    watch: Watch,
    what: str,
    fault: AbstractContextManager[None],
    until: Callable[[], object] = lambda: None,
) -> Outage:
    """Have the fault until many requests were decided without the store, and until that is over.

    Args:
        watch: Observes the pods; the times of the fault are marked there.
        what: What the fault is, in a few words.
        fault: Keeps the pods from the store.
        until: Waits for what else is to be seen while it lasts.
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
            # More than what is refused because the store has said so before.
            lambda: watch.decided(LOCAL, Outcome.DENIED) >= refused + 40,
            within=timeouts.POD,
            what="local shares are used up",
        )
        until()
        end_us = watch.mark("store returns")
    back_us = watch.mark("store is back")
    return Outage(start_us, seen_us, end_us, back_us, until_over(watch))
