"""Most-denied subjects, counted in bounded memory with an error bound for each count.

Space-Saving: Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements
in Data Streams", ICDT 2005. Every subject denied more than `total / capacity` times is kept.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fleetlimit.core.decision import DENIED
from fleetlimit.limiter.events import CheckDecided, Event

CAPACITY = 1000
REPORTED = 20

K = TypeVar("K", bound=Hashable)


class SpaceSaving(Generic[K]):
    """Counter of the most frequent keys of a stream, in constant time per key.

    Args:
        capacity: Maximum number of keys counted at the same time, at least 1.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._counts: dict[K, int] = {}
        # For each count, the keys that have it and the error of their count.
        self._keys_by_count: dict[int, dict[K, int]] = {}
        self._min_count = 0

    def add(self, key: K, number: int = 1) -> None:
        """Increase the count of a key; a new key replaces one of the lowest count if full."""
        count = self._counts.get(key)
        if count is not None:
            error = self._remove(count, key)
        elif len(self._counts) < self._capacity:
            count = error = self._min_count = 0
        else:
            count = error = self._min_count
            evicted = next(iter(self._keys_by_count[count]))
            del self._counts[evicted]
            self._remove(count, evicted)
        self._counts[key] = count + number
        self._keys_by_count.setdefault(count + number, {})[key] = error
        if self._min_count not in self._keys_by_count:
            # Increments of 1 raise the lowest count by 1, which needs no search.
            next_count = self._min_count + 1
            self._min_count = (
                next_count if next_count in self._keys_by_count else min(self._keys_by_count)
            )

    def top(self, length: int = REPORTED) -> list[tuple[K, int, int]]:
        """Return the most frequent keys, most frequent first.

        Args:
            length: Maximum number of keys.

        Returns:
            Key, count and error: the true count is from `count - error` to `count`.
        """
        largest = heapq.nlargest(length, self._counts.items(), key=lambda item: item[1])
        return [(key, count, self._keys_by_count[count][key]) for key, count in largest]

    def _remove(self, count: int, key: K) -> int:
        """Remove a key from its count and return its error."""
        keys = self._keys_by_count[count]
        error = keys.pop(key)
        if not keys:
            del self._keys_by_count[count]
        return error


@dataclass(frozen=True, slots=True)
class DeniedSubject:
    """A subject that a policy denied often since the process started.

    Args:
        policy: Name of the policy.
        subject: Keyed hash of the principal or client address.
        count: Denials, at most `error` too many.
        error: Upper bound of the amount by which `count` is too high.
    """

    policy: str
    subject: str
    count: int
    error: int


class TopDenied:
    """Observer that counts denials by policy and subject.

    Args:
        capacity: Maximum number of pairs of policy and subject counted at the same time.
    """

    only_outcomes = frozenset({DENIED})

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._denied: SpaceSaving[tuple[str, str]] = SpaceSaving(capacity)
        self._run_event: CheckDecided | None = None
        self._run_length = 0

    def on_event(self, event: Event) -> None:
        """Count a denial under each policy that denied it."""
        if isinstance(event, CheckDecided) and event.decision.outcome is DENIED:
            run = self._run_event
            # In a flood the denial cache returns one decision object to one subject many times;
            # such a run is counted once, with its length.
            if (
                run is None
                or event.decision is not run.decision
                or event.subject_hash != run.subject_hash
            ):
                self._flush_run()
                self._run_event = event
            self._run_length += 1

    def _flush_run(self) -> None:
        if self._run_event is not None:
            for policy in self._run_event.decision.denied_by:
                self._denied.add((policy, self._run_event.subject_hash), self._run_length)
        self._run_event, self._run_length = None, 0

    def report(self, length: int = REPORTED) -> list[DeniedSubject]:
        """Return the most-denied subjects, most denied first.

        Args:
            length: Maximum number of subjects.
        """
        self._flush_run()
        return [
            DeniedSubject(policy, subject, count, error)
            for (policy, subject), count, error in self._denied.top(length)
        ]
