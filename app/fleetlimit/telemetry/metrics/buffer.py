"""Buffer in front of Prometheus counters, flushed in batches and whenever the registry is scraped.

Incrementing one counter takes a lock and five calls, and a decision increments up to five counters,
which was a third of the time of a check. In a batch equal decisions are counted by one increment:
that takes a quarter of the time.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

BATCH_SIZE = 16
"""Updates in a batch. Beyond 16 the cost per decision hardly falls, while the request that triggers
a flush pays for the whole batch."""

T = TypeVar("T")


class BufferedUpdates(Collector, Generic[T]):
    """Buffer of counter updates that a scrape always includes.

    It is registered as a collector without metrics, because a registry collects in the order of
    registration: the buffer is flushed before the counters are read.

    Args:
        registry: Registry of the counters, which must be registered after this.
        apply: Increments the counters by a batch of updates.
    """

    def __init__(self, registry: CollectorRegistry, apply: Callable[[Iterable[T]], None]) -> None:
        self._apply = apply
        self._pending: deque[T] = deque()
        # A registry may be scraped from any thread.
        self._lock = threading.Lock()
        registry.register(self)

    def add(self, item: T) -> None:
        """Buffer an update, and flush a full batch."""
        self._pending.append(item)
        if len(self._pending) >= BATCH_SIZE:
            self.flush()

    def flush(self) -> None:
        """Apply all buffered updates."""
        with self._lock:
            self._apply(self._drain())

    def _drain(self) -> Iterator[T]:
        while self._pending:
            yield self._pending.popleft()

    def describe(self) -> Iterable[Metric]:
        """Return no metric."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Flush, and return no metric."""
        self.flush()
        return ()
