"""Tallies of equal updates, which are added to Prometheus counters when these are scraped.

Incrementing one counter takes a lock and five calls, and a decision increments up to five counters,
which was a third of the time of a check. A tally is one number, and the decisions between two
scrapes are one increment.
"""

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

MAX_TALLIES = 128
"""Different updates that have a tally. The next one adds all of them to the counters, within a
request: that takes about a millisecond."""

Update = TypeVar("Update", bound=Hashable)


class _Tally:
    """Number of equal updates.

    Only the thread that counts writes `counted`, and `applied` is written under the lock of
    `Tallies`. So no update is lost to a scrape in another thread, and counting needs no lock.
    """

    __slots__ = ("applied", "counted")

    def __init__(self) -> None:
        self.counted = 0
        self.applied = 0


class Tallies(Collector, Generic[Update]):
    """Tallies by update, which a scrape always includes.

    It is registered as a collector without metrics, because a registry collects in the order of
    registration: the tallies are flushed before the counters are read.

    Args:
        registry: Registry of the counters, which must be registered after this.
        apply: Adds a number of equal updates to the counters.
    """

    def __init__(self, registry: CollectorRegistry, apply: Callable[[Update, int], None]) -> None:
        self._apply = apply
        self._tallies: dict[Update, _Tally] = {}
        # A registry may be scraped from any thread.
        self._lock = threading.Lock()
        registry.register(self)

    def count(self, update: Update) -> None:
        """Count an update. Call this from one thread only."""
        tally = self._tallies.get(update)
        if tally is None:
            tally = self._start(update)
        tally.counted += 1

    def _start(self, update: Update) -> _Tally:
        with self._lock:
            if len(self._tallies) >= MAX_TALLIES:
                self._apply_all()
                self._tallies.clear()
            tally = self._tallies[update] = _Tally()
            return tally

    def flush(self) -> None:
        """Add what was counted since the last time to the counters."""
        with self._lock:
            self._apply_all()

    def _apply_all(self) -> None:
        for update, tally in self._tallies.items():
            number = tally.counted - tally.applied
            if number:
                tally.applied += number
                self._apply(update, number)

    def describe(self) -> Iterable[Metric]:
        """Return no metric."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Flush, and return no metric."""
        self.flush()
        return ()
