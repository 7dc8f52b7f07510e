"""Garbage-collector tuning of a server process: a higher threshold and a frozen heap.

Both settings are process-wide. The command `fleetlimit` raises the threshold, and `serve` freezes
the heap, too; in other apps both are applied only with `Fleetlimit(tune_gc=True)`.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

GC_THRESHOLD = 10_000
"""GC generation-0 threshold. The objects of requests that wait for the store exceed Python's
default (700 in 3.11), and none of them is garbage."""


@contextmanager
def raised_gc_threshold() -> Iterator[None]:
    """Raise the GC generation-0 threshold, and restore it at the end."""
    young, middle, old = gc.get_threshold()
    # Keep the setting of a process that turned the collector off, or set a higher threshold.
    if not 0 < young < GC_THRESHOLD:
        yield
        return
    gc.set_threshold(GC_THRESHOLD, middle, old)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)


def freeze_heap() -> None:
    """Exclude all current objects from garbage collection, until `unfreeze_heap`.

    Without this, full collections traverse the app and its models again and again
    (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    # Collect first, so that garbage is not frozen.
    gc.collect()
    gc.freeze()


def unfreeze_heap() -> None:
    """Include the frozen objects in garbage collection again."""
    gc.unfreeze()
