"""Keeps the subjects that are denied most, in bounded memory, with the error of each count.

Space-Saving: Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements
in Data Streams", ICDT 2005. Every subject denied more than `total / capacity` times is kept.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fleetlimit.core.decision import DENIED
from fleetlimit.limiter.events import Decided, Event

CAPACITY = 1000
REPORTED = 20

K = TypeVar("K", bound=Hashable)


class SpaceSaving(Generic[K]):
    """Counts the most frequent keys of a stream in constant time each.

    Args:
        capacity: How many keys are counted at the same time, at least 1.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._counts: dict[K, int] = {}
        # By count, the keys that have it, each with the error of its count.
        self._buckets: dict[int, dict[K, int]] = {}
        self._least = 0

    def add(self, key: K, number: int = 1) -> None:
        """Count more of the key, in place of a key of the least count if there is no room."""
        count = self._counts.get(key)
        if count is not None:
            error = self._take_out(count, key)
        elif len(self._counts) < self._capacity:
            count = error = self._least = 0
        else:
            count = error = self._least
            evicted = next(iter(self._buckets[count]))
            del self._counts[evicted]
            self._take_out(count, evicted)
        self._counts[key] = count + number
        self._buckets.setdefault(count + number, {})[key] = error
        if self._least not in self._buckets:
            # Counted one by one, the least count grows by one and is not searched for.
            following = self._least + 1
            self._least = following if following in self._buckets else min(self._buckets)

    def top(self, length: int = REPORTED) -> list[tuple[K, int, int]]:
        """Return the most frequent keys, most frequent first.

        Args:
            length: How many at most.

        Returns:
            Key, count and error: the true count is from `count - error` to `count`.
        """
        found = heapq.nlargest(length, self._counts.items(), key=lambda item: item[1])
        return [(key, count, self._buckets[count][key]) for key, count in found]

    def _take_out(self, count: int, key: K) -> int:
        bucket = self._buckets[count]
        error = bucket.pop(key)
        if not bucket:
            del self._buckets[count]
        return error


@dataclass(frozen=True, slots=True)
class DeniedSubject:
    """A subject that a policy denied often since the process started.

    Args:
        policy: The policy's name.
        subject: Keyed hash of the principal or client address.
        count: Denials, at most `error` too many.
        error: By how much the count can be too high.
    """

    policy: str
    subject: str
    count: int
    error: int


class TopDenied:
    """Observes which subjects are denied most, for each policy that denied them.

    Args:
        capacity: How many pairs of policy and subject are counted at the same time.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._denied: SpaceSaving[tuple[str, str]] = SpaceSaving(capacity)
        self._last: Decided | None = None
        self._more = 0

    def observe(self, event: Event) -> None:
        """Count a denial under each policy that denied."""
        if isinstance(event, Decided) and event.decision.outcome is DENIED:
            last = self._last
            # In a flood one decision is given to one caller again and again.
            if last is None or event.decision is not last.decision or event.subject != last.subject:
                self._add_last()
                self._last = event
            self._more += 1

    def _add_last(self) -> None:
        if self._last is not None:
            for policy in self._last.decision.violated:
                self._denied.add((policy, self._last.subject), self._more)
        self._last, self._more = None, 0

    def report(self, length: int = REPORTED) -> list[DeniedSubject]:
        """Return the subjects denied most, most denied first.

        Args:
            length: How many at most.
        """
        self._add_last()
        return [
            DeniedSubject(policy, subject, count, error)
            for (policy, subject), count, error in self._denied.top(length)
        ]
