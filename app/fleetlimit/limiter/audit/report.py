"""What one replica says that it let in: the text in which it is kept in the store, and back."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fleetlimit.core.keys import caller_of, limit_of, policy_of
from fleetlimit.core.quota import Algorithm, Quota

PENDING = -1
"""Stands for the time of a break that is not over yet."""
NO_WORD = -1
"""Stands for what was spent before, where nothing was asked of the bucket."""
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that is audited: one of a policy, by its figures, and not by what it is for."""

    policy: str
    quota: Quota

    @classmethod
    def of(cls, policy: str, quota: Quota) -> "Limit":
        """Return the limit behind a quota, whatever a request costs under it."""
        return cls(policy, quota if quota.cost == 1 else replace(quota, cost=1))

    def __str__(self) -> str:
        quota = self.quota
        figures = (quota.algorithm.value, quota.limit, quota.period_us, quota.burst)
        return " ".join(map(str, (self.policy, *figures)))

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Read what `str` wrote.

        Raises:
            ValueError: It did not write that.
        """
        policy, algorithm, *figures = text.split(" ")
        limit, period_us, burst = map(int, figures)
        return cls(policy, Quota(Algorithm(algorithm), limit, period_us, burst))


class Spent(NamedTuple):
    """What a replica let in of one bucket in one slot.

    Args:
        after_us: When it first did, in microseconds from the slot's begin on the store's clock.
        before: Units that were spent before that, as the store said; `NO_WORD` where it did not.
        units: Units let in, less those given back.
    """

    after_us: int
    before: int
    units: int


class Account(NamedTuple):
    """What a replica let in of one bucket.

    Args:
        first: The slot from which on nothing is missing.
        gives_back: Whether it gave units back, ever.
        slots: What it let in, for the last slots in which there was anything, as it was written:
            of thousands few are ever looked at.
    """

    first: int
    gives_back: bool
    slots: Mapping[str, Any]

    def spent(self, slot: int) -> Spent | None:
        """Return what was let in within a slot, None for nothing."""
        try:
            after_us, before, units = self.slots[str(slot)]
            return Spent(int(after_us), int(before), int(units))
        except _NONSENSE:
            return None


@dataclass(frozen=True, slots=True)
class Statement:
    """What one replica says.

    Args:
        accounts: Accounts by limit and caller.
        breaks: By policy, name of the limit and caller, until when nothing counts, on the store's
            clock; `PENDING` while that is not known.
    """

    accounts: Mapping[Limit, Mapping[str, Account]]
    breaks: Mapping[tuple[str, str, str], int]

    @classmethod
    def parse(cls, text: str) -> "Statement":
        """Read a statement; one that another release wrote in another way says nothing."""
        try:
            found = json.loads(text)
            return cls(dict(_accounts(found["accounts"])), dict(_breaks(found["breaks"])))
        except _NONSENSE:
            return cls({}, {})


def write(accounts: Mapping[str, Mapping[str, Any]], breaks: Mapping[str, int]) -> str:
    """Return the text of a statement.

    Args:
        accounts: By limit and caller: first slot, 1 if units were given back, and the figures of
            `Spent` by slot.
        breaks: Times as in `Statement`, by the bucket's key.
    """
    return json.dumps({"accounts": accounts, "breaks": breaks}, separators=(",", ":"))


def write_bounds(bounds: Mapping[str, int]) -> str:
    """Return the text that tells all replicas the largest hash that is audited, by limit."""
    return json.dumps(bounds, separators=(",", ":"))


def read_bounds(text: str) -> dict[str, int] | None:
    """Return what `write_bounds` wrote; None where that is not it."""
    try:
        return {str(limit): int(bound) for limit, bound in json.loads(text).items()}
    except _NONSENSE:
        return None


def _accounts(found: Any) -> Iterator[tuple[Limit, dict[str, Account]]]:
    for text, callers in found.items():
        yield (
            Limit.parse(text),
            {
                caller: Account(int(first), bool(gives_back), {**slots})
                for caller, (first, gives_back, slots) in callers.items()
            },
        )


def _breaks(found: Any) -> Iterator[tuple[tuple[str, str, str], int]]:
    for bucket, at_us in found.items():
        yield (policy_of(bucket), limit_of(bucket), caller_of(bucket)), int(at_us)
