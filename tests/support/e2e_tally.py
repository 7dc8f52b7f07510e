"""Tallies of a run: what each caller sent in each phase, and what it got beyond its limits.

A run shows an overshoot only if the callers send more than they may have. `offered` therefore
compares each caller's requests with its limit, phase by phase. `tally` counts the requests beyond a
policy, and splits them into those that the fault explains and those that nothing explains.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from fleetlimit.core.quota import Quota
from fleetlimit.demo.expected import max_admitted
from support import e2e_timeouts as timeouts
from support.e2e_load import Answers, Load
from support.e2e_overshoot import Interval, overshoot
from support.e2e_setup import QUOTAS
from support.e2e_watch import Mark, Watch
from support.eventually import eventually

LEAST_OFFERED: Final = 2
"""Requests that each caller sends in each phase, as a multiple of what it may have.

A limiter that admits everything then admits twice the limit in any phase."""
_RESERVE_US: Final = 10_000_000
"""Time for which a phase may last on: the next window that begins permits its whole limit."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Requests beyond a policy that Fleetlimit promises for the fault of an experiment.

    Args:
        without_store: Times of sending at which a policy may admit without the store, by policy, in
            microseconds since the epoch.
        lost: Requests of one caller that a store without its state admits again, by policy.
    """

    without_store: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests beyond a policy, summed over all callers.

    Args:
        beyond_policy: Requests admitted beyond the policy, the sum of the others.
        by_fallback: Those that `on_store_error` explains: admitted by a local share, or by `allow`.
        by_lost_state: Those that a store without its state explains.
        beyond_promise: Those that nothing explains.
    """

    beyond_policy: int = 0
    by_fallback: int = 0
    by_lost_state: int = 0
    beyond_promise: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.beyond_policy + other.beyond_policy,
            self.by_fallback + other.by_fallback,
            self.by_lost_state + other.by_lost_state,
            self.beyond_promise + other.beyond_promise,
        )


@dataclass(frozen=True, slots=True)
class Offered:
    """Requests that a caller sent in a phase under a policy, and the number that it may have."""

    phase: str
    policy: str
    caller: str
    sent: int
    permitted: int

    @property
    def share(self) -> float:
        """Requests sent, as a multiple of those permitted."""
        return self.sent / self.permitted


def tally(policy: str, quota: Quota, answers: Answers, promise: Promise) -> Tally:
    """Return the requests of all callers beyond a policy.

    Requests that pods admit without the store during a fault are left out first. The store admitted
    the other ones beyond the policy, and only lost state explains them.
    """
    away, lost = promise.without_store.get(policy, ()), promise.lost.get(policy, 0)
    found = Tally()
    for mine in by_caller(answers.of(policy=policy)):
        spans = mine.admitted_spans
        of_store = [span for span in spans if not any(_is_within(span[0], each) for each in away)]
        beyond_policy, beyond_store = overshoot(quota, spans), overshoot(quota, of_store)
        again = min(beyond_store, lost)
        fallback = beyond_policy - beyond_store
        found += Tally(beyond_policy, fallback, again, beyond_store - again)
    return found


def offered(
    answers: Answers, marks: Sequence[Mark], quotas: Mapping[str, Quota]
) -> Iterator[Offered]:
    """Yield what each caller sent in each phase under each policy.

    A caller may have a full bucket at the start of each phase, and its refill until the end. The
    first phase of a caller begins with its first request, and its last phase ends with its last.
    """
    for policy, quota in quotas.items():
        for mine in by_caller(answers.of(policy=policy)):
            first_us, last_us = mine.requests[0].sent_us, mine.requests[-1].sent_us
            for what, start_us, end_us in phases(answers, marks):
                since_us, until_us = max(first_us, start_us), min(last_us, end_us)
                if since_us > until_us:
                    continue
                sent = len(mine.between(start_us, end_us).requests)
                permitted = max_admitted([quota], since_us, until_us)
                yield Offered(what, policy, mine.requests[0].stream.caller, sent, permitted)


def until_offered(watch: Watch, *loads: Load, quotas: Mapping[str, Quota] = QUOTAS) -> None:
    """Wait until the callers have sent enough in the current phase for `LEAST_OFFERED`."""

    def is_enough() -> bool:
        now_us = time.time_ns() // 1000
        for load in loads:
            since_us = watch.began_us or load.began_us
            for policy, quota in quotas.items():
                callers = {each.caller for each in load.streams if each.policy == policy}
                permitted = max_admitted([quota], since_us, now_us + _RESERVE_US)
                if watch.decided_in_phase(policy) < LEAST_OFFERED * permitted * len(callers):
                    return False
        return True

    what = f"each caller has sent {LEAST_OFFERED} times what it may have"
    eventually(is_enough, within=timeouts.OFFERED, what=what)


def phases(answers: Answers, marks: Sequence[Mark]) -> list[tuple[str, int, int]]:
    """Return the name, the start and the end of each phase, in microseconds since the epoch."""
    if not answers.requests:
        return []
    begun = [each for each in marks if each.begins and each.at_us > answers.start_us]
    starts = [("before", answers.start_us), *((each.what, each.at_us) for each in begun)]
    ends = [*starts, ("", answers.end_us + 1)]
    return [(what, start_us, end_us) for (what, start_us), (_, end_us) in pairwise(ends)]


def by_caller(answers: Answers) -> list[Answers]:
    """Return the requests of each caller, in order of time."""
    callers = sorted({each.stream.caller for each in answers.requests})
    return [answers.of(caller=caller) for caller in callers]


def _is_within(at_us: int, span: Interval) -> bool:
    return span[0] <= at_us < span[1]
