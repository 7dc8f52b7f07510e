"""Counts equal decisions, and tells the counters how many there were when somebody looks.

A counter of Prometheus takes a lock and five calls to count one. A decision is counted by four of
them: together they took a tenth of what a check takes, and as one entry here a fortieth.
"""

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

MAX_KINDS = 1_000
"""A check made in code may name anything as its route."""

K = TypeVar("K", bound=Hashable)


class Tally(Collector, Generic[K]):
    """Counts by kind, until the registry is read.

    Args:
        registry: Where the counters are, registered after this.
        tell: Is told a kind and how many of it there were.
    """

    def __init__(self, registry: CollectorRegistry, tell: Callable[[K, int], None]) -> None:
        self._tell = tell
        self._counts: dict[K, int] = {}
        # A registry may be read from any thread.
        self._lock = threading.Lock()
        registry.register(self)

    def add(self, kind: K) -> None:
        """Count one of a kind."""
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1
        if len(self._counts) >= MAX_KINDS:
            self.flush()

    def flush(self) -> None:
        """Tell what was counted."""
        with self._lock:
            counts, self._counts = self._counts, {}
        for kind, count in counts.items():
            self._tell(kind, count)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: it has no metric of its own."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Bring the counters up to date; the registry reads them after this."""
        self.flush()
        return ()
